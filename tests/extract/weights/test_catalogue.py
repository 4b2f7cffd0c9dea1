"""The catalogue of published weights: complete, consistent, and nothing made up."""

import re
from urllib.parse import unquote, urlsplit

import pytest

from extract.weights.catalogue import CATALOGUE, find
from store import plugins
from store.errors import WeightsError

SIMCLR = [published for name, published in CATALOGUE.items() if name.startswith("simclrv2-")]


def test_all_65_networks_of_simclrv2_are_listed():
    variants = {re.match(r"simclrv2-(r\d+_\dx_sk\d)-", p.name)[1] for p in SIMCLR}
    assert len(SIMCLR) == 65
    assert len(variants) == 13
    for published in SIMCLR:
        variant = published.encoder.removeprefix("simclrv2:variant=")
        category = published.name.removeprefix(f"simclrv2-{variant}-")
        step = published.files[0].name.removesuffix(".index")
        names = [f"{step}.index", f"{step}.data-00000-of-00001", f"{step}.meta"]
        assert [file.name for file in published.files] == names
        assert all(f"/simclrv2/{category}/{variant}/" in file.url for file in published.files)


@pytest.mark.parametrize(
    ("name", "accuracy", "step"),
    [
        ("simclrv2-r50_1x_sk0-pretrained", "71.7 %, linear", 250228),
        ("simclrv2-r152_3x_sk1-pretrained", "79.8 %, linear", 250228),
        ("simclrv2-r101_2x_sk1-finetuned_1pct", "73.2 %, finetuned 1pct", 751),
        ("simclrv2-r101_2x_sk1-finetuned_10pct", "78.8 %, finetuned 10pct", 3754),
        ("simclrv2-r152_2x_sk0-finetuned_100pct", "81.1 %, finetuned 100pct", 37535),
        ("simclrv2-r50_1x_sk0-supervised", "76.6 %, supervised", 28151),
    ],
)
def test_spot_checks_against_the_publishers_table(name, accuracy, step):
    assert accuracy in CATALOGUE[name].accuracy
    assert f"model.ckpt-{step}.index" == CATALOGUE[name].files[0].name


def test_the_form_of_the_addresses():
    index = CATALOGUE["simclrv2-r50_1x_sk1-pretrained"].files[0].url
    root = "https://storage.googleapis.com/simclr-checkpoints/simclrv2"
    assert index == f"{root}/pretrained/r50_1x_sk1/model.ckpt-250228.index"
    cnn14 = CATALOGUE["panns-cnn14"].files[0].url
    assert cnn14.startswith("https://zenodo.org/record/3987831/files/Cnn14_mAP%3D0.431.pth?")


@pytest.mark.parametrize("published", CATALOGUE.values(), ids=lambda p: p.name)
def test_every_entry_is_whole(published):
    assert published.licence
    assert published.attribution
    assert published.use in ("load", "convert", "none")
    assert published.source.startswith("https://")
    assert re.fullmatch(r"[a-z0-9_-]+", published.name)
    for file in published.files:
        url = urlsplit(file.url)
        assert url.scheme == "https"
        assert unquote(url.path).endswith(f"/{file.name}")
        assert re.fullmatch(r"[\w.=-]+", file.name)
        assert not file.name.startswith(".")
    known = plugins.parse_spec(published.encoder)
    if known.name in plugins.names("extract.encoders"):
        assert set(known.settings) <= {"variant"}


def test_panns_names_its_authors_as_the_licence_asks():
    panns = [p for name, p in CATALOGUE.items() if name.startswith("panns-")]
    assert all(p.licence == "CC BY 4.0" and "Kong" in p.attribution for p in panns)
    assert len(panns) == 5


def test_a_typo_is_answered_with_what_was_meant():
    with pytest.raises(WeightsError, match="did you mean panns-cnn14"):
        find("panns-cn14")
    with pytest.raises(WeightsError, match=r"no published weights 'zzz'"):
        find("zzz")
