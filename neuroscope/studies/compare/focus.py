"""Choice of the layers of a comparison that are shown first and drawn neuron by neuron."""

from collections.abc import Sequence

from neuroscope.errors import Option, SiteError
from neuroscope.sites import Layers


def focus_layers(choice: str, layers: Sequence[int], layer_count: int) -> tuple[int, ...]:
    """Return the layers that are drawn; the middle one is the 6th of 12, the 3rd of 6.

    Args:
        choice: `middle`, or a choice of layers such as `0-5`.
        layers: layers that are compared.
        layer_count: number of layers of the model.

    Raises:
        SiteError: a layer does not exist, or none of the chosen layers is compared.
    """
    if choice == "middle":
        return (layers[(len(layers) - 1) // 2],)
    chosen = Layers.parse(choice).resolve(layer_count)
    drawn = tuple(layer for layer in chosen if layer in layers)
    if not drawn:
        compared = ", ".join(map(str, layers))
        raise SiteError(
            f"none of the layers to draw, '{choice}', is among those compared ({compared})",
            options=[Option("plot_layers", "middle", "draw the middle one")],
            remedy="choose from those compared",
        )
    return drawn
