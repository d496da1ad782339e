"""Errors a user can act on. Each message names the cause and the remedy.

NeuroscopeError
├── PromptError        prompts are missing, blank, duplicated, too long or cannot be read
├── SiteError          a site or layer does not exist
├── ModelError         a model cannot be found, or is refused
├── ExperimentError    an experiment file is malformed or asks for something impossible
├── ActivationError    activations are not finite, or a store of them is damaged
├── TrackingError      results cannot be recorded in MLflow
└── StackError         a server of `neuroscope up` does not start
"""

__all__ = [
    "ActivationError",
    "ExperimentError",
    "ModelError",
    "NeuroscopeError",
    "PromptError",
    "SiteError",
    "StackError",
    "TrackingError",
]


class NeuroscopeError(Exception):
    """What was asked for cannot be done; the message says why and what to do instead."""


class PromptError(NeuroscopeError):
    """Prompts are missing, blank, duplicated, too long or cannot be read."""


class SiteError(NeuroscopeError):
    """A site or layer that the model does not have."""


class ModelError(NeuroscopeError):
    """A model that cannot be found, or that is refused."""


class ExperimentError(NeuroscopeError):
    """An experiment that is malformed or asks for something impossible."""


class ActivationError(NeuroscopeError):
    """Activations that are not finite, or a damaged store of them."""


class TrackingError(NeuroscopeError):
    """Results that cannot be recorded in MLflow."""


class StackError(NeuroscopeError):
    """A server that does not start."""
