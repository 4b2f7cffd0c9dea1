"""The reader of TensorFlow checkpoints, against a writer of its own and against TensorFlow."""

import importlib.util
import struct
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.extra import numpy as hnp

from extract.weights.tensorflow_checkpoint import MAX_INDEX_BYTES, Checkpoint, _message
from extract.weights.tensorflow_table import DamagedTable
from store.errors import MicroshotError, MissingFile, WeightsError
from tests.extract import tensor_bundle as bundle

RNG = np.random.default_rng(0)
TENSORS = {
    "base_model/conv2d/kernel": RNG.standard_normal((3, 3, 2, 4)).astype("float32"),
    "base_model/conv2d_1/kernel": RNG.standard_normal((1, 1, 4, 4)).astype("float16"),
    "base_model/dense/bias": np.arange(5, dtype="float64"),
    "empty": np.empty((0, 3), "float32"),
    "flag": np.array([[True, False, True]]),
    "global_step": np.int64(250_228),
}


def assert_reads(path, tensors):
    checkpoint = Checkpoint(path)
    assert sorted(checkpoint) == sorted(tensors)
    for name, values in tensors.items():
        read = checkpoint.read(name)
        assert (checkpoint[name].dtype, checkpoint[name].shape) == (values.dtype.name, values.shape)
        assert read.dtype == values.dtype
        assert read.shape == values.shape
        assert read.tobytes() == np.asarray(values).tobytes()


@pytest.mark.parametrize("per_block", [1, 3, 1000])
@pytest.mark.parametrize("interval", [1, 2, 16])
@pytest.mark.parametrize("shards", [1, 2])
def test_every_layout_of_the_format_reads_back(tmp_path, per_block, interval, shards):
    layout = {"per_block": per_block, "interval": interval, "shards": shards}
    bundle.write(tmp_path / "model.ckpt-7", TENSORS, **layout)
    assert_reads(tmp_path / "model.ckpt-7", TENSORS)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    tensors=st.dictionaries(
        st.text(min_size=1, max_size=20).filter(lambda t: t[0] != "\0" and t.isprintable()),
        st.sampled_from(sorted(bundle.CODES)).flatmap(
            lambda name: hnp.arrays(name, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0))
        ),
        max_size=12,
    ),
    per_block=st.integers(1, 5),
    interval=st.integers(1, 5),
    shards=st.integers(1, 3),
)
def test_any_checkpoint_reads_back(tmp_path, tensors, **layout):
    bundle.write(tmp_path / "any", tensors, **layout)
    assert_reads(tmp_path / "any", tensors)


def test_bfloat16_is_widened_exactly(tmp_path):
    raw = np.array([0x3F80, 0xC000, 0x7F80, 0x0001], "<u2").tobytes()  # 1, -2, inf, the smallest
    fields = (14, (4,), 0, 0, 8, bundle.masked_crc(raw))
    bundle.write(tmp_path / "b", {}, extra=[(b"x", bundle.entry(*fields))])
    (tmp_path / "b.data-00000-of-00001").write_bytes(raw)
    values = Checkpoint(tmp_path / "b").read("x")
    assert values.dtype == np.float32
    assert values.tolist() == [1, -2, np.inf, 2.0**-133]


@pytest.mark.parametrize("name", ["", "m", "m.index", "m.meta", "m.data-00001-of-00002"])
def test_any_of_its_files_or_its_directory_names_a_checkpoint(tmp_path, name):
    bundle.write(tmp_path / "m", TENSORS, shards=2)
    assert_reads(tmp_path / name, TENSORS)


def test_every_flipped_bit_is_refused_or_changes_nothing(tmp_path):
    """All bytes of the index and of both shards, one random bit each."""
    tensors = dict(list(TENSORS.items())[1:])
    bundle.write(tmp_path / "m", tensors, shards=2, per_block=2, interval=2)
    refused = 0
    for path in sorted(tmp_path.iterdir()):
        good = path.read_bytes()
        for at in range(len(good)):
            bad = bytearray(good)
            bad[at] ^= 1 << int(RNG.integers(8))
            path.write_bytes(bad)
            try:
                assert_reads(tmp_path / "m", tensors)
            except (WeightsError, MissingFile):
                refused += 1
        path.write_bytes(good)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size - refused <= 2  # a bit that makes the footer's last number longer: 0x17 = 0x97 0x00


def test_every_truncation_is_refused(tmp_path):
    bundle.write(tmp_path / "m", TENSORS, per_block=2)
    for path in sorted(tmp_path.iterdir()):
        good = path.read_bytes()
        for length in range(len(good)):
            path.write_bytes(good[:length])
            with pytest.raises(WeightsError):
                Checkpoint(tmp_path / "m")
        path.write_bytes(good)


CRC = bundle.masked_crc(bytes(8))


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (bundle.entry(1, (2,), 0, 1, 8, CRC), "lies at 1..9"),
        (bundle.entry(1, (2,), 0, 1 << 62, 8, CRC), "has 8 bytes"),
        (bundle.entry(1, (2,), 0, -8, 8, CRC), "lies at -8"),
        (bundle.entry(1, (2,), 0, 8, -8, CRC), "lies at 8"),
        (bundle.entry(1, (2,), 1, 0, 8, CRC), "shard 1 of 1"),
        (bundle.entry(1, (2,), -1, 0, 8, CRC), "shard -1 of 1"),
        (bundle.entry(1, (3,), 0, 0, 8, CRC), "needs 12 bytes but has 8"),
        (bundle.entry(1, (-2, -1), 0, 0, 8, CRC), "a shape of"),
        (bundle.entry(1, (1 << 62, 1 << 62), 0, 0, 8, CRC), "a shape of"),
        (bundle.entry(1, (0, 1 << 62), 0, 0, 0, CRC), "a shape of"),
        (bundle.entry(1, (1,) * 65, 0, 0, 4, CRC), "rank"),
        (bundle.field(1, 1) + bundle.field(2, bundle.field(3, 1)), "rank"),
        (bundle.entry(1, (2,), 0, 0, 8, CRC)[:-1], "cut off"),
        (bundle.field(2, 7), "not a message"),
        (bundle.field(4, b"x"), "not a number"),
        (b"\x0b", "unknown kind 3"),
        (b"\x08" + b"\xff" * 12, "more than 64 bits"),
        (b"\x08\x80", "cut off"),
        (b"\x12\xff\xff\xff\xff\x7f", "cut off"),
    ],
)
def test_hostile_entries_are_refused_when_opened(tmp_path, entry, says):
    bundle.write(tmp_path / "m", {}, extra=[(b"x", entry)])
    (tmp_path / "m.data-00000-of-00001").write_bytes(bytes(8))
    with pytest.raises(WeightsError, match=says):
        Checkpoint(tmp_path / "m")


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ([], "0 shards"),
        ([(b"", bundle.header(1 << 40))], "1099511627776 shards"),
        ([(b"", bundle.header(1, endianness=1))], "big-endian"),
        ([(b"", bundle.header(1, consumer=9))], "later version"),
        ([(b"", bundle.header(1)), (b"b", b""), (b"a", b"")], "keys are out of order"),
        ([(b"", bundle.header(1)), (b"a", b""), (b"a", b"")], "keys are out of order"),
        ([(b"", bundle.header(1)), (b"a" * 2000, b"")], "beyond its block"),
        ([(b"", bundle.header(1)), (b"\xff\xfe", b"")], "utf-8"),
    ],
)
def test_hostile_tables_are_refused(tmp_path, pairs, says):
    bundle.write(tmp_path / "m", {})
    (tmp_path / "m.index").write_bytes(bundle.table(pairs))
    with pytest.raises(WeightsError, match=says):
        Checkpoint(tmp_path / "m")


def test_a_block_that_is_listed_twice_is_refused(tmp_path):
    """Otherwise a small index could cost hours."""
    bundle.write(tmp_path / "m", {})
    content = bundle.block([], 1)
    out = content + b"\0" + bundle.masked_crc(content + b"\0")
    handle = bundle.number(0) + bundle.number(len(content))
    index = bundle.block([(b"%d" % i, handle) for i in range(9)], 1)
    index_handle = bundle.number(len(out)) + bundle.number(len(index))
    out += index + b"\0" + bundle.masked_crc(index + b"\0")
    (tmp_path / "m.index").write_bytes(
        out + (handle + index_handle).ljust(40, b"\0") + bundle.MAGIC
    )
    with pytest.raises(WeightsError, match="blocks are out of order"):
        Checkpoint(tmp_path / "m")


def test_an_entry_of_unbounded_prefix_is_refused(tmp_path):
    bundle.write(tmp_path / "m", {})
    entry = bundle.number(5) + bundle.number(1) + bundle.number(0) + b"k"  # shares 5 of nothing
    content = entry + struct.pack("<2I", 0, 1)
    out = content + b"\0" + bundle.masked_crc(content + b"\0")
    handle = bundle.number(0) + bundle.number(len(content))
    index = bundle.block([(b"z", handle)], 1)
    index_handle = bundle.number(len(out)) + bundle.number(len(index))
    out += index + b"\0" + bundle.masked_crc(index + b"\0")
    (tmp_path / "m.index").write_bytes(
        out + (handle + index_handle).ljust(40, b"\0") + bundle.MAGIC
    )
    with pytest.raises(WeightsError, match="beyond its block"):
        Checkpoint(tmp_path / "m")


def test_snappy_is_refused_by_name(tmp_path):
    bundle.write(tmp_path / "m", TENSORS, kind=1)
    with pytest.raises(WeightsError, match="snappy"):
        Checkpoint(tmp_path / "m")


def test_slices_and_text_are_listed_but_not_read(tmp_path):
    whole = bundle.field(1, 1) + bundle.field(2, bundle.field(2, bundle.field(1, 9)))
    sliced = whole + bundle.field(7, b"")
    text = bundle.entry(7, (1,), 0, 0, 3, CRC)
    extra = [(b"sliced", sliced), (b"\0sliced\xff\x80", whole), (b"text", text)]
    bundle.write(tmp_path / "m", TENSORS, extra=extra)
    checkpoint = Checkpoint(tmp_path / "m")
    assert set(checkpoint) == {*TENSORS, "sliced", "text"}
    with pytest.raises(WeightsError, match="'sliced' is partitioned"):
        checkpoint.read("sliced")
    with pytest.raises(WeightsError, match="'text' is of type 7"):
        checkpoint.read("text")


def test_missing_files_are_named(tmp_path):
    bundle.write(tmp_path / "m", TENSORS, shards=2)
    (tmp_path / "m.data-00001-of-00002").unlink()
    with pytest.raises(MissingFile, match="00001-of-00002 is not there"):
        Checkpoint(tmp_path / "m")
    with pytest.raises(MissingFile, match=r"n\.index is not there"):
        Checkpoint(tmp_path / "n")
    bundle.write(tmp_path / "n", TENSORS)
    with pytest.raises(MissingFile, match="2 checkpoints"):
        Checkpoint(tmp_path)


def test_old_and_oversized_files_are_refused(tmp_path):
    (tmp_path / "vggish_model.ckpt").write_bytes(bundle.table([(b"", b"")]))
    with pytest.raises(WeightsError, match="V1"):
        Checkpoint(tmp_path / "vggish_model.ckpt")
    with (tmp_path / "big.index").open("wb") as file:
        file.truncate(MAX_INDEX_BYTES + 1)
    with pytest.raises(WeightsError, match="more than"):
        Checkpoint(tmp_path / "big")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(noise=st.binary(max_size=200), valid_footer=st.booleans())
def test_noise_raises_nothing_but_our_errors(tmp_path, noise, valid_footer):
    """With a valid checksum around it, so that the noise reaches the parsers."""
    bundle.write(tmp_path / "m", {})
    pairs = [(b"", bundle.header(1)), (b"x", noise)]
    index = bundle.table(pairs) if valid_footer else noise.ljust(40, b"\0") + bundle.MAGIC
    (tmp_path / "m.index").write_bytes(index)
    try:
        checkpoint = Checkpoint(tmp_path / "m")
        for name in checkpoint:
            checkpoint.read(name)
    except MicroshotError:
        pass


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"
)
def test_files_of_tensorflow_itself(tmp_path):
    """Saved by `tf.compat.v1.train.Saver`, the writer of the published checkpoints."""
    import tensorflow

    tf = tensorflow.compat.v1
    kinds = ("float16", "bfloat16", "float64", "int32", "int64", "bool", "complex64", "uint16")
    with tf.Graph().as_default(), tf.Session() as session:
        for i in range(300):
            tf.get_variable(f"base_model/conv2d_{i}/kernel", (3, 3, 2, 4))
        for kind in kinds:
            value = tensorflow.cast(tensorflow.constant([[1, 0, 3], [2, 5, 7]]), kind)
            tf.get_variable(kind, initializer=value)
        tf.get_variable("global_step", initializer=np.int64(250_228))
        tf.get_variable("parts", (10, 4), partitioner=tf.fixed_size_partitioner(3))
        session.run(tf.global_variables_initializer())
        prefix = tf.train.Saver().save(session, str(tmp_path / "model.ckpt"), global_step=12)
    theirs, ours = tf.train.load_checkpoint(prefix), Checkpoint(Path(prefix))
    assert set(ours) == set(theirs.get_variable_to_shape_map())
    for name in set(ours) - {"parts"}:
        want, got = theirs.get_tensor(name), ours.read(name)
        assert np.array_equal(np.asarray(want, got.dtype), got), name
        assert np.shape(want) == got.shape
    with pytest.raises(WeightsError, match="partitioned"):
        ours.read("parts")


def test_messages_of_a_million_fields_are_refused():
    with pytest.raises(DamagedTable, match="more than 10000 fields"):
        _message(b"\x08\x01" * 1_000_000)
