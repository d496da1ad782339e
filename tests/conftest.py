"""Tiny real models, made from their configurations, and a home of its own for every test."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# tiny models gain nothing from threads, and lose much where other processes want the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

WORDS = """
the a an cat dog engineer nurse man woman transgender boy girl is was sits on in mat house black
white small very old young and or not red green blue king queen walks runs . , ! ?
""".split()

FAMILIES = ("bert", "roberta", "distilbert", "gpt2", "llama", "mistral", "qwen2")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home; nothing of the user's environment reaches a test, nor one test another."""
    before = dict(os.environ)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "PREFECT_API_URL", "PREFECT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NEUROSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    yield tmp_path / "home"
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs; making its tables takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def database(home: Path, empty_database: Path) -> Path:
    """The home's MLflow database, ready."""
    home.mkdir()
    return Path(shutil.copy(empty_database, home / "mlflow.db"))


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a two-layer model of a family, made when first asked for."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = make_model(family, tmp_path_factory.mktemp(family))
        return made[family]

    return folder


def make_model(family: str, folder: Path, *, seed: int = 0, layers: int = 2) -> Path:
    """Saves a tiny model, its random weights large enough to tell layers apart, and a tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModel
    from transformers.utils.logging import disable_progress_bar

    tokenizer = make_tokenizer(family)
    size = len(tokenizer)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ids["pad_token_id"] = tokenizer.pad_token_id
    if family == "gpt2":
        shape = {"n_embd": 32, "n_layer": layers, "n_head": 4, "n_positions": 64, "n_inner": 48}
    elif family == "distilbert":
        shape = {"dim": 32, "n_layers": layers, "n_heads": 4, "hidden_dim": 48}
        shape["max_position_embeddings"] = 64
    else:
        shape = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4}
        shape |= {"intermediate_size": 48, "max_position_embeddings": 64}
        if family in ("llama", "mistral", "qwen2"):
            shape["num_key_value_heads"] = 2
        if family == "mistral":
            shape["sliding_window"] = 4  # shorter than most prompts
        if family == "roberta":
            shape["max_position_embeddings"] = 66  # positions start at 2
    config = AutoConfig.for_model(family, vocab_size=size, initializer_range=0.2, **shape, **ids)
    torch.manual_seed(seed)
    disable_progress_bar()
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tokenizer(family: str):
    """A tokenizer of the family's kind, that frames a prompt as the family does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    frames = {
        "bert": ("[CLS]", "[SEP]", "[PAD]", "[UNK]"),
        "distilbert": ("[CLS]", "[SEP]", "[PAD]", "[UNK]"),
        "roberta": ("<s>", "</s>", "<pad>", "<unk>"),
        "gpt2": (None, None, None, "<|endoftext|>"),
        "qwen2": (None, None, "<|endoftext|>", "<|endoftext|>"),
        "llama": ("<s>", None, None, "<unk>"),
        "mistral": ("<s>", None, None, "<unk>"),
    }
    first, last, pad, unknown = frames[family]
    # RoBERTa's padding id is 1: its positions count from there
    end = "</s>" if first == "<s>" else None
    special = list(dict.fromkeys(token for token in (first, pad, last, unknown, end) if token))
    if family in ("gpt2", "qwen2"):  # pieces of bytes, which mark a space as Ġ
        fast = Tokenizer(models.BPE())
        fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        fast.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        fast.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    else:
        vocabulary = {token: id for id, token in enumerate([*special, *WORDS])}
        fast = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
        fast.pre_tokenizer = pre_tokenizers.Whitespace()
    framing = [(token, fast.token_to_id(token)) for token in (first, last) if token]
    if framing:
        template = " ".join(token for token in (first, "$A", last) if token)
        fast.post_processor = processors.TemplateProcessing(single=template, special_tokens=framing)
    names = {"unk_token": unknown, "pad_token": pad}
    if family in ("bert", "distilbert"):
        names |= {"cls_token": first, "sep_token": last}
    else:
        names |= {"bos_token": first or unknown, "eos_token": end or unknown}
    names = {key: value for key, value in names.items() if value}
    return PreTrainedTokenizerFast(tokenizer_object=fast, **names)


@pytest.fixture
def folder(tmp_path):
    """For activations; not there yet."""
    return tmp_path / "acts"
