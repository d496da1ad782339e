"""Registration of tiny models in MLflow, in the ways that users register models."""

import logging
import os
import warnings
from pathlib import Path

import mlflow
from mlflow import MlflowClient

_URI = "MLFLOW_TRACKING_URI"


class Register:
    """Registry at one tracking URI, with methods that add versions of models."""

    def __init__(self, uri: str):
        self.client = MlflowClient(tracking_uri=uri)
        experiment = self.client.get_experiment_by_name("models")
        self._experiment = (
            experiment.experiment_id if experiment else self.client.create_experiment("models")
        )

    def log_model(self, folder: Path, name: str) -> int:
        """Register with `mlflow.transformers.log_model`, which has its own layout of files."""
        from transformers import AutoModel, AutoTokenizer

        parts = {
            "model": AutoModel.from_pretrained(folder),
            "tokenizer": AutoTokenizer.from_pretrained(folder),
        }
        previous = os.environ.get(_URI)
        logging.getLogger("mlflow").setLevel(logging.ERROR)  # no model card, no licence
        mlflow.set_tracking_uri(self.client.tracking_uri)
        try:
            mlflow.set_experiment(experiment_id=self._experiment)
            with warnings.catch_warnings(action="ignore"):  # MLflow warns about its own code
                mlflow.transformers.log_model(
                    parts,
                    name="model",
                    task="feature-extraction",
                    registered_model_name=name,
                    pip_requirements=["torch", "transformers"],
                )
        finally:
            mlflow.set_tracking_uri(None)  # which also unsets the variable
            if previous is not None:
                os.environ[_URI] = previous
        return max(int(v.version) for v in self.client.search_model_versions(f"name='{name}'"))

    def upload(self, folder: Path, name: str) -> int:
        """Register a folder as the artifacts of a run."""
        run = self.client.create_run(self._experiment)
        self.client.log_artifacts(run.info.run_id, str(folder), "files")
        self.client.set_terminated(run.info.run_id)
        return self.point_to(f"{run.info.artifact_uri}/files", name, run.info.run_id)

    def point_to(self, source: str, name: str, run_id: str | None = None) -> int:
        """Register files at their location, without copying them."""
        if not self.client.search_registered_models(f'name = "{name}"'):
            self.client.create_registered_model(name)
        return int(self.client.create_model_version(name, source, run_id).version)
