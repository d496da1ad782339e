"""Picture of a session: the watched neurons at each prompt."""

import io

from neuroscope.errors import ExperimentError
from neuroscope.labels import short_model, shortened
from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.plots import plot_matrix, save_png
from neuroscope.studies.probe.sessions import Session

_LONGEST = 40  # characters of a prompt
Z = Metric("z", "z", "standard deviations from the neuron's usual value", digits=2)


def session_picture(session: Session) -> bytes:
    """Return a PNG file with the z of the watched neurons at each prompt, and a legend.

    Raises:
        ExperimentError: no neuron was watched.
    """
    if not session.watched:
        raise ExperimentError(
            "no neuron was watched in this session", remedy="watch one, and save the session again"
        )
    figure = plot_matrix(
        [own.z for own in session.watched],
        [own.neuron for own in session.watched],
        [shortened(text, _LONGEST) for text in session.prompts],
        metric=Z,
        title=f"Watched neurons of {short_model(session.model)}",
        notes=[note for note in (session.note, session.created) if note],
        x_label="prompt",
        noun="neuron",
    )
    stream = io.BytesIO()
    save_png(figure, stream)
    return stream.getvalue()
