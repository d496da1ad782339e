"""Models under study as entries of MLflow's page *Models*."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

FINGERPRINT_TAG = "neuroscope.model_sha"
"""Tag with the digest of a model's files, of runs and of models."""


@dataclass(frozen=True)
class ModelEntry:
    """Model under study: its files are elsewhere, only its name and settings are recorded."""

    name: str
    """Display name."""
    fingerprint: str
    """Digest of the model's files."""
    params: Mapping[str, str]
    """Settings shown on the model's page, such as its path."""

    @property
    def mlflow_name(self) -> str:
        """Name without the characters that MLflow refuses.

        >>> ModelEntry("someone/Qwen2.5-0.5B", "", {}).mlflow_name
        'someone_Qwen2_5-0_5B'
        """
        return re.sub(r"[/:.%\"']", "_", self.name)


def create_logged_model(
    client: "MlflowClient", experiment_id: str, run_id: str, model: ModelEntry
) -> str:
    """Create the entry of a model that a run reads, and return its id.

    Each run has entries of its own: MLflow's table of runs shows only models whose source is the
    run.
    """
    created = client.create_logged_model(
        experiment_id,
        name=model.mlflow_name,
        source_run_id=run_id,
        tags={FINGERPRINT_TAG: model.fingerprint, "mlflow.model.isExternal": "true"},
        params=dict(model.params),
        model_type="transformers",
    )
    client.finalize_logged_model(created.model_id, "READY")
    return str(created.model_id)
