"""Search for checkpoints, and refusal of those that cannot be used."""

import shutil
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from models import assert_equal, copy_with_config, copy_with_weights

from neuroscope.errors import ModelError
from neuroscope.extraction import checkpoints, models
from neuroscope.extraction.checkpoints import find_checkpoint
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model
from neuroscope.extraction.weights import WeightFiles


@pytest.fixture
def folder(family_folder, tmp_path):
    """Return a copy of a model's folder that a test may change."""
    return Path(shutil.copytree(family_folder("llama"), tmp_path / "model"))


def hub_cache(folder, cache, name="someone/tiny", commit="c0ffee" * 6 + "abcd"):
    """Copy a model's files into a cache of the hub (blobs, links, a ref); return the commit."""
    root = cache / ("models--" + name.replace("/", "--"))
    snapshot = root / "snapshots" / commit
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    snapshot.mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    for index, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, root / "blobs" / f"{index:040x}")
        (snapshot / file.name).symlink_to(root / "blobs" / f"{index:040x}")
    return commit


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return an empty cache of the hub, with the hub offline."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def hub(cache, monkeypatch):
    """Run a local server in place of the hub; `hub.respond` answers its requests."""
    import huggingface_hub.constants as constants

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.respond(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


def respond_404(request):
    request.send_response(404)
    request.send_header("X-Error-Code", "RepoNotFound")
    request.send_header("Content-Length", "0")
    request.end_headers()


def drop_the_connection(request):
    request.close_connection = True


def test_a_hub_id_is_read_from_the_hubs_cache(folder, cache):
    commit = hub_cache(folder, cache)
    model = load_model("someone/tiny")
    assert (model.name, model.checkpoint.revision) == ("someone/tiny", commit)
    from_hub = extract(model, ["the cat ."])
    local = extract(load_model(str(folder)), ["the cat ."])
    assert_equal(from_hub, local)
    assert from_hub.provenance.revision == commit
    assert from_hub.provenance.fingerprint == local.provenance.fingerprint


def test_a_cache_of_the_hub_without_the_tokenizer_is_refused(folder, cache):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    commit = hub_cache(folder, cache)
    with pytest.raises(ModelError, match=rf"'someone/tiny'.*{commit}.*tokenizer\.json"):
        load_model("someone/tiny")


def test_a_revision_on_the_hub_can_be_chosen(folder, cache):
    commit = hub_cache(folder, cache)
    assert find_checkpoint(f"someone/tiny@{commit}").revision == commit
    with pytest.raises(ModelError, match="'someone/tiny@other'"):
        find_checkpoint("someone/tiny@other")


@pytest.mark.parametrize(
    "name",
    ["nothing-here", "someone/nothing", "./nothing", "/nothing/at/all", "no such name!", "a/b/c"],
)
def test_an_unknown_name_raises_an_error_with_the_built_in_names(name, cache):
    with pytest.raises(ModelError, match=f"'{name}'") as raised:
        find_checkpoint(name)
    assert "minilm" in raised.value.remedy


def test_an_unknown_repository_raises_an_error_with_the_hubs_response(hub):
    hub.respond = respond_404
    with pytest.raises(ModelError, match=r"'someone/nothing'.*404"):
        find_checkpoint("someone/nothing")


def test_a_dropped_connection_raises_an_error(hub):
    hub.respond = drop_the_connection
    with pytest.raises(ModelError, match="'someone/tiny'"):
        find_checkpoint("someone/tiny")


def test_the_cache_is_used_if_the_hub_refuses_connections(folder, cache, hub):
    commit = hub_cache(folder, cache)
    hub.shutdown()
    hub.server_close()
    assert find_checkpoint("someone/tiny").revision == commit
    with pytest.raises(ModelError, match="'someone/nothing'"):
        find_checkpoint("someone/nothing")


@pytest.mark.parametrize("kept", [[], ["config.json"]], ids=["alone", "with config.json"])
def test_an_adapter_on_the_hub_is_refused_with_its_base_model(kept, folder, cache, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "big/model"}')
    for name in kept:
        shutil.copy(folder / name, adapter)
    hub_cache(adapter, cache)
    with pytest.raises(ModelError, match=r"'someone/tiny'.*adapter.*'big/model'"):
        find_checkpoint("someone/tiny")


def test_an_unknown_architecture_is_refused(family_folder, folder):
    copy_with_config(family_folder("llama"), folder, model_type="mamba")
    with pytest.raises(ModelError, match=r"'mamba'.*bert, roberta"):
        find_checkpoint(str(folder))


def test_an_encoder_configured_as_a_decoder_is_refused(family_folder, tmp_path):
    folder = copy_with_config(family_folder("bert"), tmp_path, is_decoder=True)
    with pytest.raises(ModelError, match="is_decoder"):
        find_checkpoint(str(folder))


@pytest.mark.parametrize("key", ["hidden_size", "vocab_size"])
def test_an_incomplete_configuration_is_refused(folder, key):
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace(f'"{key}"', '"other"'))
    with pytest.raises(ModelError, match=key):
        find_checkpoint(str(folder))


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin"):
        find_checkpoint(str(folder))


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"\*\.safetensors"):
        find_checkpoint(str(folder))


def test_remote_code_is_refused(family_folder, folder, cache):
    copy_with_config(
        family_folder("llama"), folder, auto_map={"AutoModel": "modeling_own.OwnModel"}
    )
    (folder / "modeling_own.py").write_text("raise SystemExit('this code must never run')")
    hub_cache(folder, cache)
    for name in (str(folder), "someone/tiny"):
        with pytest.raises(ModelError, match="auto_map"):
            find_checkpoint(name)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=rf"{tmp_path} .*config\.json"):
        find_checkpoint(str(tmp_path))


@pytest.mark.parametrize("text", ["{", "[]", '"text"', "\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_a_damaged_configuration_is_refused(folder, text):
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModelError, match=r"config\.json"):
        find_checkpoint(str(folder))


def test_missing_weights_are_not_replaced_by_random_numbers(family_folder, tmp_path):
    name = "layers.1.mlp.down_proj.weight"

    def without(weights):
        return {key: weight for key, weight in weights.items() if key != name}

    folder = copy_with_weights(family_folder("llama"), tmp_path, without)
    with pytest.raises(ModelError, match=name):
        load_model(str(folder))


def test_weights_of_another_shape_are_refused(family_folder, tmp_path):
    folder = copy_with_config(family_folder("llama"), tmp_path, intermediate_size=40)
    with pytest.raises(ModelError, match=str(folder)):
        load_model(str(folder))


def test_a_configuration_that_contradicts_itself_is_refused(family_folder, tmp_path):
    folder = copy_with_config(family_folder("llama"), tmp_path, num_attention_heads=5)
    with pytest.raises(ModelError, match=str(folder)):
        load_model(str(folder))


def test_damaged_weights_are_refused(folder):
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match=str(folder)):
        load_model(str(folder))


def test_the_fingerprint_covers_weights_configuration_and_tokenizer(folder):
    before = find_checkpoint(str(folder)).fingerprint
    assert find_checkpoint(str(folder)).fingerprint == before
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        assert find_checkpoint(str(folder)).fingerprint != before
        (folder / name).write_bytes(content)
    assert find_checkpoint(str(folder)).fingerprint == before


@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
        *("added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model"),
        *("spiece.model", "sentencepiece.bpe.model", "tekken.json", "tokenizer.4.0.0.json"),
    ],
)
def test_the_fingerprint_covers_each_file_of_a_tokenizer(folder, tmp_path, name, separate):
    other = tmp_path / "tokenizer"
    other.mkdir()
    checkpoint = replace(find_checkpoint(str(folder)), tokenizer_folder=other if separate else None)
    fingerprints = {replace(checkpoint).fingerprint}
    for content in ("{}", "[]"):
        ((other if separate else folder) / name).write_text(content)
        fingerprints.add(replace(checkpoint).fingerprint)
    assert len(fingerprints) == 3


def saved_again(folder, change=1.0):
    """Replace the weights of a model by others, as a training run does."""
    copy = copy_with_weights(
        folder, folder.parent / "copy", lambda weights: {n: w + change for n, w in weights.items()}
    )
    (copy / "model.safetensors").replace(folder / "model.safetensors")


def test_the_fingerprint_of_a_loaded_model_is_that_of_the_files_that_were_loaded(folder):
    before = find_checkpoint(str(folder)).fingerprint
    model = load_model(str(folder))
    saved_again(folder)
    assert model.checkpoint.fingerprint == before != find_checkpoint(str(folder)).fingerprint
    assert extract(model, ["the cat"]).provenance.fingerprint == before


def test_files_that_change_before_or_while_they_are_loaded_are_refused(folder, monkeypatch):
    checkpoint = find_checkpoint(str(folder))
    _ = checkpoint.fingerprint
    saved_again(folder)
    with pytest.raises(ModelError, match="changed"):
        load_model(checkpoint)
    monkeypatch.setattr(models, "WeightFiles", lambda c: [saved_again(folder), WeightFiles(c)][1])
    with pytest.raises(ModelError, match="changed"):
        load_model(str(folder))


def test_a_streamed_model_refuses_files_that_have_changed(folder):
    model = load_model(str(folder), memory="stream")
    saved_again(folder)
    with pytest.raises(ModelError, match="changed"):
        extract(model, ["the cat"])


def test_the_weights_of_the_built_in_model_are_checked(monkeypatch):
    package, _ = checkpoints.BUILT_IN["minilm"]
    monkeypatch.setitem(checkpoints.BUILT_IN, "minilm", (package, "0" * 64))
    with pytest.raises(ModelError, match="SHA-256"):
        find_checkpoint("minilm")
