import hashlib
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from extract.weights import loading
from store.errors import ConfigError, MissingFile, WeightsError
from tests.store.exchange.mutations import mutation
from tests.store.pickle_attacks import deep, nested_items, nested_keys, repeated_list


def network():
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))


def tensors(net):
    return {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}


@pytest.fixture
def trained():
    net = network()
    for tensor in tensors(net).values():
        tensor.normal_(generator=torch.Generator().manual_seed(3))
    return tensors(net)


def test_safetensors_come_with_digest_and_metadata(tmp_path, trained):
    path = tmp_path / "net.safetensors"
    save_file(trained, path, {"licence": "MIT"})
    weights = loading.read(path)
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights.file == "net.safetensors"
    assert loading.notes(weights, "unknown") == {"weights": "net.safetensors", "licence": "MIT"}
    assert loading.identity(weights, 0) == {"sha256": weights.sha256}
    assert weights.tensors.keys() == trained.keys()


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: {"model": d}], ids=["bare", "model"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_pytorch_files_load_into_networks(tmp_path, trained, wrap, zipped):
    path = tmp_path / "net.pth"
    torch.save(wrap(trained), path, _use_new_zipfile_serialization=zipped)
    with torch.device("meta"):
        net = network()
    loading.load(net, loading.read(path))
    for key, value in tensors(net).items():
        assert torch.equal(value, trained[key])


class Payload:
    """Writes a marker when a trusting reader unpickles it."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_that_would_run_code_is_refused_and_does_not(tmp_path, zipped):
    path, marker = tmp_path / "evil.pth", tmp_path / "marker"
    torch.save({"w": Payload(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="more than tensors"):
        loading.read(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)["w"].close()  # the payload works: the test could fail
    assert marker.exists()


def test_a_plain_pickle_is_refused_too(tmp_path):
    path, marker = tmp_path / "evil.bin", tmp_path / "marker"
    path.write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(WeightsError):
        loading.read(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "payload", [[1, 2], {"epoch": 3}, {"model": {"w": 1.0}}, {}], ids=["list", "no", "float", "no2"]
)
def test_a_file_without_a_state_dict_is_refused(tmp_path, payload):
    path = tmp_path / "net.pth"
    torch.save(payload, path)
    with pytest.raises(WeightsError):
        loading.read(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
@pytest.mark.parametrize("keep", [0, 7, 100])
def test_a_torn_file_is_refused(tmp_path, trained, suffix, keep):
    path = tmp_path / f"net{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(trained, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=str(path)):
        loading.read(path)


def test_what_is_missing_or_of_a_foreign_format(tmp_path):
    with pytest.raises(MissingFile, match=r"gone\.pth"):
        loading.read(tmp_path / "gone.pth")
    (tmp_path / "net.h5").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"'\.h5'.*\.safetensors"):
        loading.read(tmp_path / "net.h5")


def test_numbers_that_are_not_finite_are_refused(tmp_path, trained):
    trained["0.weight"][0, 0, 0, 0] = torch.nan
    save_file(trained, tmp_path / "net.safetensors")
    with pytest.raises(WeightsError, match=r"not finite in 0\.weight"):
        loading.read(tmp_path / "net.safetensors")


def given(tensors):
    return loading.Weights(file="net.pth", sha256="0", tensors=tensors, metadata={})


def test_every_difference_is_named(trained):
    trained["0.bias"] = torch.zeros(4)
    trained["extra"] = trained.pop("1.bias")
    with pytest.raises(WeightsError) as caught:
        loading.load(network(), given(trained))
    for part in ("net.pth", "without 1.bias", "unknown extra", "0.bias [4] instead of [3]"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_the_first_few_differences_are_named():
    spare = {f"spare{i}": torch.zeros(1) for i in range(9)}
    with pytest.raises(WeightsError, match="spare0, spare1, spare2 and 6 more"):
        loading.load(network(), given({**tensors(network()), **spare}))


def test_spare_entries_are_ignored_by_prefix_only(trained):
    loading.load(network(), given({**trained, "head.w": torch.zeros(1)}), ignore=("head.",))
    with pytest.raises(WeightsError, match="ahead"):
        loading.load(network(), given({**trained, "ahead.w": torch.zeros(1)}), ignore=("head.",))


def test_a_wanted_entry_is_never_ignored(trained):
    loading.load(network(), given(trained), ignore=("0.",))
    del trained["0.weight"]
    with pytest.raises(WeightsError, match=r"without 0\.weight"):
        loading.load(network(), given(trained), ignore=("0.",))


def test_choosing():
    assert loading.choose("net", "", untrained=True) is None
    with pytest.raises(ConfigError, match="exclude each other"):
        loading.choose("net", "a.pth", untrained=True)
    with pytest.raises(WeightsError, match=r"net needs weights=FILE .*, or net:untrained"):
        loading.choose("net", "", untrained=False)


def test_the_seed_alone_decides_random_weights():
    first, again, other = network(), network(), network()
    for net, seed in ((first, 0), (again, 0), (other, 1)):
        loading.initialise(net, seed=seed, gain=2.0)
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)


def test_random_kernels_have_the_variance_they_promise():
    net = nn.Conv2d(64, 64, 3)
    loading.initialise(net, seed=0, gain=2.0)
    assert float(net.weight.detach().var()) == pytest.approx(2 / (64 * 9), rel=0.05)
    assert not net.bias.any()


@pytest.mark.parametrize("make", [nested_keys, nested_items, lambda: deep(2000)])
@pytest.mark.parametrize("zipped", [False, True])
def test_pickles_without_end_are_refused_before_torch_reads_them(tmp_path, make, zipped):
    path = tmp_path / "net.pth"
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("net/data.pkl", make())
    else:
        path.write_bytes(make())
    with pytest.raises(WeightsError, match=r"a tuple as a key|100 deep"):
        loading.read(path)


def test_pickles_that_swell_are_refused_before_torch_reads_them(tmp_path):
    (tmp_path / "net.pth").write_bytes(repeated_list(3000, 10_000))
    with pytest.raises(WeightsError, match="more than"):
        loading.read(tmp_path / "net.pth")


def test_what_torch_would_unpack_or_read_beyond_its_end_is_refused(tmp_path, trained):
    path = tmp_path / "net.pth"
    torch.save({"a": torch.zeros(1 << 20)}, path)
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(WeightsError, match="is compressed"):
        loading.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data[:100] if "/data/" in name else data)
    with pytest.raises(WeightsError, match="not as large as it says"):
        loading.read(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", "legacy.pth"])
def test_a_damaged_file_is_weights_or_an_error_of_ours(tmp_path, trained, suffix):
    path = tmp_path / f"net{suffix}"
    if suffix == ".safetensors":
        save_file(trained, path)
    else:
        torch.save(trained, path, _use_new_zipfile_serialization=suffix == ".pth")
    data = path.read_bytes()
    refused = 0
    for seed in range(60):
        path.write_bytes(mutation(data, seed))
        try:
            loading.read(path)
        except WeightsError as error:
            refused += "\n" not in str(error)
    assert refused > 20
