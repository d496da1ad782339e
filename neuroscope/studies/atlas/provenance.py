"""The row of an atlas that records its model, prompts and settings."""

import datetime
import json
from typing import TYPE_CHECKING

from neuroscope.provenance import library_versions
from neuroscope.studies.atlas.experiment import AtlasExperiment
from neuroscope.studies.atlas.measures import Confounds
from neuroscope.studies.atlas.tables import inseparable
from neuroscope.studies.atlas.topics import TopicIndex
from neuroscope.studies.store.spec import ExtractionSpec

if TYPE_CHECKING:
    import pandas as pd


def model_frame(
    experiment: AtlasExperiment, spec: ExtractionSpec, topics: TopicIndex, confounds: Confounds
) -> "pd.DataFrame":
    """Return the only row of the table `model`."""
    import pandas as pd

    checkpoint = spec.checkpoint
    row = {
        "name": checkpoint.pinned_name,
        "fingerprint": checkpoint.fingerprint,
        "architecture": checkpoint.architecture.family,
        "layers": checkpoint.layer_count,
        "component": spec.sites[0].component,
        "pool": spec.pool,
        "token_rule": spec.token_rule,
        "dtype": spec.dtype,
        "attention": spec.attention,
        "prompts_digest": spec.prompts.digest,
        "prompts": len(topics),
        "prompts_selection": int((~topics.heldout).sum()),
        "prompts_heldout": int(topics.heldout.sum()),
        "split": topics.split,
        "seed": experiment.seed,
        "min_auroc": experiment.min_auroc,
        "min_lift": experiment.min_lift,
        "min_one_vs_one": experiment.min_one_vs_one,
        "max_q": experiment.max_q,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "version": library_versions().get("neuroscope", ""),
        "experiment": json.dumps(experiment.document()),
        "notes": [*topics.notes, *_inseparable(topics, confounds)],
    }
    return pd.DataFrame([row])


def _inseparable(topics: TopicIndex, confounds: Confounds) -> list[str]:
    """Return a sentence on each topic that is not separable from a covariate."""
    return [
        inseparable(name, reason)
        for name, reason in zip(topics.names, confounds.reasons, strict=True)
        if reason
    ]
