"""Study of associations: roles and groups, against control words, over many templates."""
