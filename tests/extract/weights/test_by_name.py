"""Weights by name: the file that a name stands for is the file, wherever it came from."""

import hashlib
import threading

import numpy as np
import pytest
from safetensors.torch import save

import extract
from extract.encoders import mobilenetv2
from extract.weights import by_name, catalogue, convert, fetch
from extract.weights.by_name import Fetching
from extract.weights.catalogue import Published, RemoteFile
from store import plugins
from store.errors import ConfigError, WeightsError
from store.lock import alone
from tests.extract.weights.test_convert import bundle, created

TINY = "mobilenetv2-tiny"


@pytest.fixture(scope="module")
def body():
    """The weights of a small network as a file."""
    return save({k: v * 0 for k, v in mobilenetv2.MobileNetV2().state_dict().items()})


@pytest.fixture
def published(body, monkeypatch):
    """They are in the catalogue, with their digest."""
    name, md5 = "tiny.safetensors", hashlib.md5(body, usedforsecurity=False).hexdigest()
    file = RemoteFile(name=name, url=f"https://x/{name}", size_bytes=len(body), md5=md5)
    entry = Published(
        name=TINY, encoder="mobilenetv2", files=(file,), use="load", licence="MIT",
        attribution="us", accuracy=None, source="https://x",
    )  # fmt: skip
    everything = {**catalogue.CATALOGUE, TINY: entry}
    for module in (catalogue, by_name, fetch):
        monkeypatch.setattr(module, "CATALOGUE", everything)
    return entry


def named(text):
    return {s: p.name for s, p in by_name.named(plugins.parse_spec(text)).items()}


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("simclrv2", {"weights": "simclrv2-r50_1x_sk1-pretrained"}),
        ("simclrv2:variant=r101_2x_sk0", {"weights": "simclrv2-r101_2x_sk0-pretrained"}),
        ("simclrv2:weights=supervised", {"weights": "simclrv2-r50_1x_sk1-supervised"}),
        (
            "simclrv2:weights=simclrv2-r50_1x_sk1-finetuned_1pct",
            {"weights": "simclrv2-r50_1x_sk1-finetuned_1pct"},
        ),
        ("panns:variant=cnn10,weights=pretrained", {"weights": "panns-cnn10"}),
        ("vggish:weights=my.pth,pca=pretrained", {"pca": "vggish-pca"}),
        ("panns:weights=some/file", {}),
        ("panns:weights=Cnn14_mAP=0.431.pth", {}),
        ("panns:untrained", {}),
        ("mobilenetv2", {}),
        ("logmel", {}),
        ("efficientnet_lite:weights=pretrained", {}),
    ],
)
def test_a_spec_names_the_set_that_fits_its_settings(spec, names):
    assert named(spec) == names


def test_every_set_is_found_by_its_own_spec():
    for entry in catalogue.CATALOGUE.values():
        if entry.use == "none":
            with pytest.raises(WeightsError, match="kind that is not read"):
                named(entry.spec)
        else:
            assert named(entry.spec)[entry.setting] == entry.name


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("simclrv2:weights=supervisd", WeightsError, "did you mean 'supervised'"),
        ("mobilenetv2:weights=pretrained", WeightsError, "none are known by name; otherwise"),
        (
            "simclrv2:weights=simclrv2-r50_2x_sk0-supervised",
            ConfigError,
            "write simclrv2:variant=r50_2x_sk0,weights=supervised",
        ),
    ],
)
def test_a_name_of_nothing_says_what_there_is(spec, error, says):
    with pytest.raises(error, match=says):
        named(spec)


def test_a_folder_of_that_name_is_in_nobodys_way(tmp_path, monkeypatch):
    (tmp_path / "supervised").mkdir()
    monkeypatch.chdir(tmp_path)
    assert named("simclrv2:weights=supervised")


@pytest.mark.parametrize("spec", ["mobilenetv2", "mobilenetv2:weights=pretrained"])
def test_by_name_by_fetching_and_by_path_it_is_the_same_feature(
    server,
    published,
    body,
    tmp_path,
    spec,
):
    server.body = body
    said = []
    fetching = Fetching(directory=tmp_path / "cache", progress=lambda *args: said.append(args))
    encoder = extract.load_encoder(spec, fetching=fetching)
    assert said[-1][0] == len(body)
    file = tmp_path / "cache" / TINY / "tiny.safetensors"
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(body)
    for path in (file, mine):
        again = extract.load_encoder(f"mobilenetv2:weights={path}")
        assert again.identity == encoder.identity
        assert again.slug == encoder.slug
    offline = Fetching(directory=tmp_path / "cache", offline=True)
    assert extract.load_encoder(spec, fetching=offline).identity == encoder.identity
    assert len(server.seen) == 1


def test_another_file_than_the_publishers_is_refused(server, published, body, tmp_path):
    server.body = b"\0" * len(body)
    with pytest.raises(WeightsError, match=r"published is [0-9a-f]{32}.*or mobilenetv2:untrained"):
        extract.load_encoder("mobilenetv2", fetching=Fetching(directory=tmp_path))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_an_unverified_set_is_not_fetched_by_its_name_alone(server, tmp_path):
    with pytest.raises(WeightsError, match="fetch panns-cnn14 --accept-unverified"):
        extract.load_encoder("panns", fetching=Fetching(directory=tmp_path))
    assert server.seen == []


def test_one_process_waits_for_another_that_fetches(published, body, tmp_path, monkeypatch):
    folder = tmp_path / TINY
    folder.mkdir()
    (folder / "tiny.safetensors").write_bytes(body)
    waiting = threading.Event()
    monkeypatch.setattr(by_name.time, "sleep", lambda seconds: waiting.set())
    outcome = []
    spec = plugins.Spec("mobilenetv2", {})
    call = lambda: outcome.append(by_name.resolved(spec, Fetching(directory=tmp_path)))  # noqa: E731
    with alone(folder / ".tiny.safetensors.lock"):
        thread = threading.Thread(target=call)
        thread.start()
        assert waiting.wait(10)
        assert outcome == []
    thread.join(10)
    assert outcome[0].settings["weights"] == str(folder / "tiny.safetensors")


def test_a_checkpoint_becomes_what_its_encoder_reads_once(tmp_path):
    name = "simclrv2-r50_1x_sk0-pretrained"
    zeros = {key: np.zeros(shape, "float32") for key, shape in created(50, 1, False).items()}
    (tmp_path / name).mkdir()
    bundle.write(tmp_path / name / "model.ckpt-250228", zeros)
    (tmp_path / name / "model.ckpt-250228.meta").write_bytes(b"")
    spec = plugins.parse_spec("simclrv2:variant=r50_1x_sk0")
    fetching = Fetching(directory=tmp_path, offline=True)
    made = tmp_path / name / f"{name}.safetensors"
    assert by_name.resolved(spec, fetching).settings["weights"] == str(made)
    mine = tmp_path / "mine.safetensors"
    convert.convert(
        tmp_path / name / "model.ckpt-250228.index", "simclrv2:variant=r50_1x_sk0", mine
    )
    assert mine.read_bytes() == made.read_bytes()
    for file in (tmp_path / name).glob("model*"):
        file.unlink()  # it takes room, and is not needed again
    assert by_name.resolved(spec, fetching).settings["weights"] == str(made)
    with made.open("r+b") as file:
        file.write(b"\xff")
    with pytest.raises(WeightsError, match="when it was made; delete it"):
        by_name.resolved(spec, fetching)
