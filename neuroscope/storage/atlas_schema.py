"""Schema of an atlas: the tables of `atlas.duckdb`, their columns, and what each column means."""

from dataclasses import dataclass

SCHEMA = 1
"""Version of the schema. It changes whenever a table or a column changes."""

BINS = 64
"""Number of bins of a histogram."""

VERSION_TABLE = "atlas_schema"
"""Name of a further table, whose only row and column `version` hold the version of the schema."""

TOKENS = "STRUCT(token VARCHAR, score REAL)[]"
NEIGHBOURS = "STRUCT(neuron INTEGER, cosine REAL)[]"

COVARIATES = ("tokens", "question_mark", "digits", "upper_case", "source")
"""Properties of a prompt, besides its topic, that may explain a neuron's activation."""


@dataclass(frozen=True)
class AtlasColumn:
    """Column of a table.

    >>> AtlasColumn("layer", "INTEGER", "layer, from 0")
    AtlasColumn(name='layer', type='INTEGER', meaning='layer, from 0')
    """

    name: str
    type: str
    """Type in SQL; REAL has 32 bits."""
    meaning: str
    """Meaning with its unit, and when the value is NULL."""


def _columns(*columns: tuple[str, str, str]) -> tuple[AtlasColumn, ...]:
    return tuple(AtlasColumn(*column) for column in columns)


MEANINGS = {
    "model": "The model, the prompts and the settings; one row.",
    "prompt": "One row per prompt.",
    "token": "One row per token of the vocabulary.",
    "topic": "One row per topic.",
    "covariate": "One row per topic and covariate: how well it alone separates the topic.",
    "neuron": "One row per neuron.",
    "selectivity": "One row per neuron and topic (an entry).",
    "example": "One row per neuron and example prompt.",
    "direction": "One row per topic and layer: the topic's direction and the layer's best neuron.",
}
"""Table -> what a row stands for."""

TABLES: dict[str, tuple[AtlasColumn, ...]] = {
    "model": _columns(
        ("name", "VARCHAR", "name or folder of the model"),
        ("fingerprint", "VARCHAR", "SHA-256 of the model's weights and configuration"),
        ("architecture", "VARCHAR", "model_type in the model's configuration, such as bert"),
        ("layers", "INTEGER", "number of layers of the model"),
        ("component", "VARCHAR", "component whose neurons are described, such as mlp_act"),
        ("pool", "VARCHAR", "how the tokens of a prompt are pooled"),
        ("token_rule", "VARCHAR", "rule for which tokens are pooled"),
        ("dtype", "VARCHAR", "number format of the forward pass"),
        ("attention", "VARCHAR", "implementation of attention"),
        ("prompts_digest", "VARCHAR", "SHA-256 of the ids, texts and labels of the prompts"),
        ("prompts", "BIGINT", "number of prompts"),
        ("prompts_selection", "BIGINT", "number of prompts in the selection half"),
        ("prompts_heldout", "BIGINT", "number of prompts in the held-out half"),
        ("split", "VARCHAR", "what is divided into halves: 'prompt' or 'source'"),
        ("seed", "BIGINT", "seed of the split"),
        ("min_auroc", "DOUBLE", "minimum AUROC in both halves; 1 - AUROC if silent"),
        ("min_lift", "DOUBLE", "minimum held-out average precision, as a multiple of the share"),
        ("min_one_vs_one", "DOUBLE", "minimum one-vs-one AUROC of a selective entry"),
        ("max_q", "DOUBLE", "upper limit of the q-value of a selective entry, exclusive"),
        ("created", "VARCHAR", "time of creation, ISO 8601"),
        ("version", "VARCHAR", "version of neuroscope"),
        ("experiment", "VARCHAR", "experiment that built the atlas, as JSON"),
        ("notes", "VARCHAR[]", "remarks for the reader, such as topics that were left out"),
    ),
    "prompt": _columns(
        ("prompt", "INTEGER", "number of the prompt, from 0"),
        ("id", "VARCHAR", "id of the prompt"),
        ("text", "VARCHAR", "text of the prompt"),
        ("source", "VARCHAR", "source of the prompt; NULL if not given"),
        ("heldout", "BOOLEAN", "whether the prompt is in the held-out half"),
        ("tokens", "INTEGER", "number of counted tokens"),
        ("ids", "INTEGER[]", "ids of its tokens, special ones included"),
        ("topics", "INTEGER[]", "numbers of its topics; empty if it has none"),
    ),
    "token": _columns(
        ("token", "INTEGER", "id of the token"),
        ("text", "VARCHAR", "text, with a leading space if a word begins"),
        ("special", "BOOLEAN", "whether it is a special token, such as padding"),
    ),
    "topic": _columns(
        ("topic", "INTEGER", "number of the topic, from 0"),
        ("name", "VARCHAR", "name of the topic"),
        ("prompts", "BIGINT", "number of prompts on the topic"),
        ("prompts_heldout", "BIGINT", "number of held-out prompts on the topic"),
        ("share", "DOUBLE", "share of the held-out prompts that are on the topic, 0 to 1"),
        ("separable", "BOOLEAN", "whether no single covariate identifies the topic"),
        ("reason", "VARCHAR", "covariates that identify the topic; empty if it is separable"),
        ("selective", "BIGINT", "number of selective neurons that no covariate explains"),
        ("confounded", "BIGINT", "number of other selective neurons, explained by covariates"),
    ),
    "covariate": _columns(
        ("topic", "INTEGER", "number of the topic"),
        ("name", "VARCHAR", f"name of the covariate: {', '.join(COVARIATES)}"),
        ("auroc", "DOUBLE", "AUROC of the covariate for the topic, 0 to 1; NULL if not defined"),
    ),
    "neuron": _columns(
        ("neuron", "INTEGER", "number of the neuron, from 0, by layer and unit"),
        ("name", "VARCHAR", "component, layer and unit, such as mlp_act.3.57"),
        ("component", "VARCHAR", "component of the layer"),
        ("layer", "INTEGER", "layer, from 0"),
        ("unit", "INTEGER", "index within the layer, from 0"),
        ("mean", "REAL", "mean activation over all prompts"),
        ("sd", "REAL", "standard deviation of the activation over all prompts"),
        ("low", "REAL", "smallest activation"),
        ("high", "REAL", "largest activation"),
        ("q001", "REAL", "quantile .001 of the activation"),
        ("q01", "REAL", "quantile .01 of the activation"),
        ("q50", "REAL", "median activation"),
        ("q99", "REAL", "quantile .99 of the activation"),
        ("q999", "REAL", "quantile .999 of the activation"),
        ("active", "REAL", "share of prompts with a positive activation, 0 to 1"),
        (
            "eta_squared",
            "REAL",
            "share of the variance between topics; NULL if a prompt has several",
        ),
        ("entropy", "REAL", "LAPE (arXiv 2402.16438) over topics, nats; NULL if not defined"),
        ("entropy_selected", "BOOLEAN", "whether LAPE selects the neuron; NULL if not defined"),
        ("general", "BOOLEAN", "whether silencing the neuron hurts every topic"),
        ("promotes", TOKENS, "tokens whose scores the neuron raises most; NULL if unknown"),
        ("suppresses", TOKENS, "tokens whose scores the neuron lowers most; NULL if unknown"),
        ("neighbours", NEIGHBOURS, "nearest neurons by the cosine of their weights"),
        ("edges", "REAL[]", f"activations at the {BINS + 1} edges of the bins"),
        ("counts", "INTEGER[]", f"number of prompts in each of the {BINS} bins"),
    ),
    "selectivity": _columns(
        ("neuron", "INTEGER", "number of the neuron"),
        ("topic", "INTEGER", "number of the topic"),
        ("auroc", "REAL", "AUROC of topic against rest in the selection half, 0 to 1"),
        ("auroc_heldout", "REAL", "AUROC in the held-out half, 0 to 1"),
        ("auroc_error", "REAL", "bound on the error of auroc_heldout due to the bins"),
        ("ap_heldout", "REAL", "average precision in the held-out half, 0 to 1"),
        ("ap_error", "REAL", "bound on the error of ap_heldout due to the bins"),
        ("one_vs_one", "REAL", "smallest held-out AUROC against one other topic; NULL if none"),
        ("rival", "INTEGER", "number of that other topic; NULL if there is none"),
        ("d", "REAL", "difference of the means, in pooled standard deviations"),
        ("r", "REAL", "correlation of activation and topic, -1 to 1"),
        ("p", "REAL", "p-value of the AUROC, two-sided; 0 if less than 1e-45"),
        ("q", "REAL", "p-value adjusted by the Benjamini-Hochberg procedure"),
        ("polarity", "TINYINT", "1 if the neuron is active on the topic, -1 if silent on it"),
        ("partial_auroc", "REAL", "held-out AUROC after the covariates are removed"),
        ("confounded", "BOOLEAN", "whether the covariates explain the entry"),
        ("selective", "BOOLEAN", "whether the entry meets all thresholds"),
        ("counts", "INTEGER[]", "number of the topic's prompts per bin; NULL if not selective"),
        ("verified", "VARCHAR", "'confirmed', 'not confirmed' or 'general'; NULL if not tested"),
        ("effect", "REAL", "change of the outputs when silenced: on topic - off topic - controls"),
        ("effect_low", "REAL", "lower 95 % limit of the effect"),
        ("effect_high", "REAL", "upper 95 % limit of the effect"),
        ("effect_p", "REAL", "p-value of the effect against control neurons"),
    ),
    "example": _columns(
        ("neuron", "INTEGER", "number of the neuron"),
        ("kind", "VARCHAR", "'strongest', 'weakest' or 'random'"),
        ("rank", "INTEGER", "rank within the kind, from 0"),
        ("prompt", "INTEGER", "number of the prompt"),
        ("value", "REAL", "activation on the prompt, after pooling"),
        ("position", "INTEGER", "index in the prompt of the token with the peak activation"),
        ("token", "VARCHAR", "text of that token"),
    ),
    "direction": _columns(
        ("topic", "INTEGER", "number of the topic"),
        ("layer", "INTEGER", "layer, from 0"),
        ("auroc_heldout", "REAL", "held-out AUROC of the difference of the class means"),
        (
            "best_neuron",
            "INTEGER",
            "number of the layer's best neuron in the selection half",
        ),
        ("best_auroc", "REAL", "its held-out AUROC; 1 - AUROC if it is silent on the topic"),
    ),
}
"""Table -> its columns, in their order."""

ORDER = {
    "model": ("name",),
    "prompt": ("prompt",),
    "token": ("token",),
    "topic": ("topic",),
    "covariate": ("topic", "name"),
    "neuron": ("neuron",),
    # the few selective entries lie together, and the entries of a neuron lie near each other
    "selectivity": ("selective", f"neuron // {2**15}", "topic", "neuron"),
    "example": ("neuron", "kind", "rank"),
    "direction": ("topic", "layer"),
}
"""Table -> what its rows are sorted by; its columns together identify a row.

DuckDB keeps the smallest and largest value of each block of rows, and skips the blocks that cannot
hold a value: sorting takes the place of indexes, which would be larger than the values.
"""
