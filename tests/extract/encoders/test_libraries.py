"""Encoders of other libraries: the library's own call on the same frames and sound gives the rows.

Networks are small or have random weights, as none can be had here; `python -m
tests.extract.encoders.test_libraries` prints the table of cosines. Each library is an extra, so
tests skip where it is not installed.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import extract
from extract.testing import VisualEncoderContract
from extract.weights.choice import check_encoder
from store.errors import ConfigError, MissingFile, WeightsError

PARITY = 0.9999
TIMM = ("resnet18", "vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050")
TORCHVISION = ("resnet18", "mobilenet_v3_small", "efficientnet_b0")
HF = ("clip", "siglip", "dinov2", "clap", "ast")
PERCEPTION = (
    ("pe_audio", "audio"), ("pe_video", "visual"),
    ("pe_audio_video", "audio"), ("pe_audio_video", "visual"),
)  # fmt: skip


def needs(*libraries):
    missing = [name for name in libraries if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def frames(count=3, height=150, width=200, seed=0):
    """Large coloured areas with some noise."""
    generator = torch.Generator().manual_seed(seed)
    areas = torch.rand(count, 3, 4, 4, generator=generator)
    x = torch.nn.functional.interpolate(areas, (height, width), mode="bicubic").clamp(0, 1)
    x = 0.8 * x + 0.2 * torch.rand(x.shape, generator=generator)
    return (x * 255).byte().permute(0, 2, 3, 1).contiguous()


def sounds(seconds, rate, count=2):
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(count, round(seconds * rate), generator=generator)


def pictures(x):
    from PIL.Image import fromarray

    return [fromarray(frame) for frame in x.numpy()]


def cosine(ours, theirs):
    """The least cosine of any row."""
    assert ours.shape == theirs.shape
    ours, theirs = (x.double() / x.double().norm(dim=1, keepdim=True) for x in (ours, theirs))
    return (ours * theirs).sum(1).min().item()


# ── each library's own call ──────────────────────────────────────────────────────────────────────


@torch.inference_mode()
def timm_parity(model, pool="model"):
    import timm

    x = frames()
    ours = extract.load_encoder(f"timm:{model},untrained,seed=3,pool={pool}")(x)
    torch.manual_seed(3)
    network = timm.create_model(model, pretrained=False, num_classes=0).eval()
    own = timm.data.create_transform(
        **timm.data.resolve_model_data_config(network), is_training=False
    )
    batch = torch.stack([own(picture) for picture in pictures(x)])
    if pool == "model":
        return cosine(ours, network(batch))
    tokens = network.forward_features(batch)
    if tokens.ndim == 4:
        return cosine(ours, tokens.mean((2, 3)))
    return cosine(ours, tokens[:, 0] if pool == "cls" else tokens[:, 1:].mean(1))


@torch.inference_mode()
def torchvision_parity(model):
    """What the last linear layer of the library's whole model is given."""
    from torchvision import models

    x = frames()
    ours = extract.load_encoder(f"torchvision:{model},untrained,seed=3")(x)
    torch.manual_seed(3)
    network = models.get_model(model, weights=None).eval()
    own = models.get_model_weights(model).DEFAULT.transforms()
    last = [part for part in network.modules() if isinstance(part, torch.nn.Linear)][-1]
    given = []
    last.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    network(torch.stack([own(frame.permute(2, 0, 1)) for frame in x]))
    return cosine(ours, given[0])


def hf_folder(kind, folder):
    """A small model of that kind with random weights, saved as transformers saves models."""
    import transformers as hf

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 2}  # fmt: skip
    image = {"image_size": 32, "patch_size": 8}
    torch.manual_seed(1)
    size = {"height": 32, "width": 32}
    if kind == "clip":
        text = {**small, "vocab_size": 99, "eos_token_id": 1, "bos_token_id": 0}
        settings = hf.CLIPConfig(text_config=text, vision_config={**small, **image},
                                 projection_dim=16)  # fmt: skip
        model = hf.CLIPModel(settings)
        processor = hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    elif kind == "siglip":
        settings = hf.SiglipConfig(
            text_config={**small, "vocab_size": 99}, vision_config={**small, **image}
        )
        model, processor = hf.SiglipModel(settings), hf.SiglipImageProcessor(size=size)
    elif kind == "dinov2":
        model = hf.Dinov2Model(hf.Dinov2Config(**small, **image))
        processor = hf.BitImageProcessor(size={"shortest_edge": 36}, crop_size=size)
    elif kind == "clap":
        sound = {"spec_size": 64, "num_mel_bins": 16, "depths": [1, 1], "patch_stride": [4, 4],
                 "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 16, "hidden_size": 32,
                 "projection_hidden_size": 16, "window_size": 4}  # fmt: skip
        settings = hf.ClapConfig(text_config={**small, "vocab_size": 99}, audio_config=sound,
                                 projection_dim=16)  # fmt: skip
        model = hf.ClapModel(settings)
        processor = hf.ClapFeatureExtractor(
            feature_size=16, truncation="rand_trunc", max_length_s=2, fft_window_size=1024
        )
    else:
        model = hf.ASTModel(hf.ASTConfig(**small, max_length=128, num_mel_bins=32))
        processor = hf.ASTFeatureExtractor(num_mel_bins=32, max_length=128)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model.eval(), processor


@torch.inference_mode()
def hf_parity(kind, folder):
    model, processor = hf_folder(kind, folder)
    if kind in ("clip", "siglip", "dinov2"):
        x = frames()
        ours = extract.load_encoder(f'hf:"{folder}"')(x)
        batch = processor(pictures(x), return_tensors="pt")
        theirs = (
            model(**batch).pooler_output if kind == "dinov2" else model.get_image_features(**batch)
        )
    else:
        rate = processor.sampling_rate
        x = sounds(2.0, rate)
        ours = extract.load_encoder(f'hf:"{folder}",window_seconds=2,hop_seconds=2')(x)
        batch = processor(list(x.numpy()), sampling_rate=rate, return_tensors="pt")
        if kind == "clap":
            theirs = model.get_audio_features(input_features=batch["input_features"])
        else:
            theirs = model(**batch).pooler_output
    return cosine(ours, getattr(theirs, "pooler_output", theirs))


def perception_folder(kind, folder):
    """A small perception encoder with random weights, saved as transformers saves models."""
    import transformers as hf

    inside = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
              "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}  # fmt: skip
    codec = {"encoder_hidden_size": 4, "downsampling_ratios": [2, 4], "hidden_size": 16,
             "codebook_dim": 8, "sampling_rate": 16000}  # fmt: skip
    audio = {**inside, "dac_config": codec}
    look = {"model_type": "timm_wrapper", "architecture": "vit_tiny_patch16_224", "num_classes": 8,
            "model_args": {"img_size": 32, "depth": 1}, "do_pooling": True}  # fmt: skip
    video = {**inside, "vision_config": look}
    text = {"model_type": "modernbert", "hidden_size": 24, "intermediate_size": 32, "vocab_size": 9,
            "num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 0, "bos_token_id": 1,
            "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}  # fmt: skip
    torch.manual_seed(1)
    if kind == "pe_audio":
        model = hf.PeAudioModel(hf.PeAudioConfig(text_config=text, audio_config=audio))
    elif kind == "pe_video":
        model = hf.PeVideoModel(hf.PeVideoConfig(text_config=text, video_config=video))
    else:
        both = {**inside, "audio_config": audio, "video_config": video}
        settings = hf.PeAudioVideoConfig(text_config=text, audio_video_config=both)
        model = hf.PeAudioVideoModel(settings)
    model.save_pretrained(folder)
    if kind != "pe_audio":
        hf.PeVideoVideoProcessor(
            do_resize=True, do_rescale=True, do_normalize=True, size={"height": 32, "width": 32},
            image_mean=[0.5] * 3, image_std=[0.5] * 3,
        ).save_pretrained(folder)  # fmt: skip
    if kind != "pe_video":
        hf.PeAudioFeatureExtractor(sampling_rate=16000, hop_length=8).save_pretrained(folder)
    return model.eval()


@torch.inference_mode()
def perception_parity(kind, sense, folder):
    """The model's whole call, text and all, gives its vector of the sense."""
    import transformers as hf

    model = perception_folder(kind, folder)
    text = {"input_ids": torch.tensor([[1, 5, 2]] * 2)}
    if sense == "visual":
        x = frames(2)
        ours = extract.load_encoder(f'hf:"{folder}",sense=visual')(x)
        processor = hf.AutoVideoProcessor.from_pretrained(folder)
        batch = processor([f[None] for f in x.numpy()], return_tensors="pt")
        theirs = getattr(model, "video_model", model)(**text, **batch).video_embeds
    else:
        x = sounds(1.0, 16000)
        ours = extract.load_encoder(f'hf:"{folder}",sense=audio,window_seconds=1,hop_seconds=1')(x)
        processor = hf.AutoFeatureExtractor.from_pretrained(folder)
        batch = processor(list(x.numpy()), sampling_rate=16000, return_tensors="pt")
        theirs = getattr(model, "audio_model", model)(**text, **batch).audio_embeds
    return cosine(ours, theirs)


def onnx_file(path, channels_last=False, size=(48, 64)):
    """A small network as a file, and the same in torch."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(8, 5),
    ).eval()  # fmt: skip

    class Last(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x.permute(0, 3, 1, 2) if channels_last else x)

    example = torch.zeros(1, *size, 3) if channels_last else torch.zeros(1, 3, *size)
    torch.onnx.export(
        Last().eval(), (example,), str(path), input_names=["x"], output_names=["y"],
        dynamic_axes={"x": {0: "n"}, "y": {0: "n"}}, dynamo=False,
    )  # fmt: skip
    return network


@torch.inference_mode()
def onnx_parity(folder, channels_last=False):
    import onnxruntime

    path = Path(folder) / "small net.onnx"
    network = onnx_file(path, channels_last)
    x = frames(height=48, width=64)
    encoder = extract.load_encoder(f'onnx:"{path}"')
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406),
                                                         (0.229, 0.224, 0.225)))  # fmt: skip
    batch = (x.permute(0, 3, 1, 2) / 255 - mean) / std
    fed = batch.permute(0, 2, 3, 1) if channels_last else batch
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    theirs = torch.from_numpy(session.run(["y"], {"x": fed.contiguous().numpy()})[0])
    assert cosine(theirs, network(batch)) > PARITY
    return cosine(encoder(x), theirs)


# ── tests ────────────────────────────────────────────────────────────────────────────────────────


@needs("timm")
@pytest.mark.parametrize("model", TIMM)
def test_timm_gives_what_timm_gives(model):
    assert timm_parity(model) > PARITY


@needs("timm")
@pytest.mark.parametrize(
    ("model", "pool"), [("vit_tiny_patch16_224", "cls"), ("vit_tiny_patch16_224", "mean"),
                        ("resnet18", "mean")],
)  # fmt: skip
def test_tokens_and_places_of_timm(model, pool):
    assert timm_parity(model, pool) > PARITY


@needs("torchvision")
@pytest.mark.parametrize("model", TORCHVISION)
def test_torchvision_gives_what_torchvision_gives(model):
    assert torchvision_parity(model) > PARITY


@needs("transformers", "torchvision")
@pytest.mark.parametrize("kind", HF)
def test_transformers_give_what_transformers_give(kind, tmp_path):
    assert hf_parity(kind, tmp_path / kind) > PARITY


@needs("transformers", "torchvision", "timm")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("kind", "sense"), PERCEPTION)
def test_perception_encoders_give_what_they_give(kind, sense, tmp_path):
    assert perception_parity(kind, sense, tmp_path / kind) > PARITY


@needs("transformers", "torchvision", "timm")
def test_what_transformers_say_is_no_result(tmp_path, capsys):
    perception_folder("pe_video", tmp_path)
    capsys.readouterr()
    extract.load_encoder(f'hf:"{tmp_path}"')
    assert not capsys.readouterr().out


@needs("transformers", "torchvision", "timm")
def test_an_encoder_of_both_senses_asks_which(tmp_path):
    perception_folder("pe_audio_video", tmp_path)
    with pytest.raises(ConfigError, match="sees and hears; say sense=visual or sense=audio"):
        extract.load_encoder(f'hf:"{tmp_path}"')


@needs("onnxruntime", "onnx")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("channels_last", [False, True])
def test_onnxruntime_gives_what_it_gives(channels_last, tmp_path):
    assert onnx_parity(tmp_path, channels_last) > PARITY


@needs("timm")
@pytest.mark.parametrize("name", ["timm:resnet10t"], scope="class")
class TestTimm(VisualEncoderContract):
    """Keeps the promises of every encoder."""


@needs("torchvision")
@pytest.mark.parametrize("name", ["torchvision:mobilenet_v3_small"], scope="class")
class TestTorchvision(VisualEncoderContract):
    """Keeps the promises of every encoder."""


@needs("timm")
def test_a_file_of_weights_is_the_model_and_digested(tmp_path):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(5)
    network = timm.create_model("resnet10t", pretrained=False, num_classes=0)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    encoder = extract.load_encoder(f"timm:resnet10t,file={tmp_path / 'w.safetensors'}")
    assert len(encoder.identity["weights"]["sha256"]) == 64
    assert "untrained" not in encoder.notes
    random = extract.load_encoder("timm:resnet10t,untrained,seed=5")
    assert cosine(encoder(frames()), random(frames())) > PARITY
    assert random.identity["weights"] == {"untrained": True, "seed": 5}


@needs("transformers", "torchvision")
def test_identity_of_transformers_is_of_numbers_and_settings(tmp_path):
    hf_folder("dinov2", tmp_path / "a")
    hf_folder("dinov2", tmp_path / "elsewhere" / "a")
    one, two = (extract.load_encoder(f'hf:"{tmp_path / p}"') for p in ("a", "elsewhere/a"))
    assert one.identity == two.identity
    assert json.loads(json.dumps(one.identity)) == one.identity
    other = extract.load_encoder(f'hf:"{tmp_path / "a"}",untrained')
    assert other.identity != one.identity
    assert other.slug.endswith("-untrained")


@needs("onnxruntime", "onnx")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_sound_through_onnx(tmp_path):
    class Energy(torch.nn.Module):
        def forward(self, x):
            return torch.stack([x.square().mean(1), x.abs().mean(1)], 1)

    torch.onnx.export(
        Energy(), (torch.zeros(1, 16000),), str(tmp_path / "e.onnx"), input_names=["x"],
        output_names=["y"], dynamic_axes={"x": {0: "n", 1: "t"}, "y": {0: "n"}}, dynamo=False,
    )  # fmt: skip
    encoder = extract.load_encoder(f'onnx:"{tmp_path / "e.onnx"}",window_seconds=1,hop_seconds=1')
    assert (encoder.modality, encoder.dim, encoder.sample_rate) == ("audio", 2, 16000)
    x = sounds(2.0, 16000)
    rows = encoder(x).unflatten(0, (2, 2))
    np.testing.assert_allclose(rows[:, 0, 0], x[:, :16000].square().mean(1), rtol=1e-4)


@needs("onnxruntime", "onnx")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_what_an_onnx_file_cannot_be(tmp_path):
    (tmp_path / "no.onnx").write_bytes(b"no network")
    onnx_file(tmp_path / "yes.onnx")
    for spec, error, says in (
        (f'onnx:"{tmp_path / "no.onnx"}"', WeightsError, "cannot read"),
        (f'onnx:"{tmp_path / "none.onnx"}"', MissingFile, "is not there"),
        ("onnx", ConfigError, "name a file"),
        (f'onnx:"{tmp_path / "yes.onnx"}",output=z', ConfigError, "it has y"),
        (f'onnx:"{tmp_path / "yes.onnx"}",mean=1+2', ConfigError, "three numbers"),
    ):
        with pytest.raises(error, match=says) as caught:
            extract.load_encoder(spec)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["timm", "torchvision", "hf"])
def test_a_model_must_be_named_and_a_library_installed(name):
    with pytest.raises(ConfigError, match=rf"{name}:MODEL|microshot\[{name}\]"):
        extract.load_encoder(name)


@needs("timm", "torchvision", "transformers")
@pytest.mark.parametrize("spec", ["timm:no_such_net", "torchvision:resnet19", "hf:./no/such"])
def test_a_model_that_is_not_there_is_one_line(spec, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError) as caught:
        extract.load_encoder(spec)
    assert "\n" not in str(caught.value)


def test_a_model_of_any_sense_is_asked_for_by_either_option():
    for modality in ("visual", "audio"):
        check_encoder("hf:some/model", modality)
        check_encoder("onnx:'a.onnx'", modality)
    with pytest.raises(ConfigError, match="--visual"):
        check_encoder("timm:resnet18", "audio")


def table(folder):
    """Every model and its least cosine with the library's own call."""
    yield from ((f"timm:{m}", timm_parity(m)) for m in TIMM)
    yield from ((f"torchvision:{m}", torchvision_parity(m)) for m in TORCHVISION)
    yield from ((f"hf: a small {k}", hf_parity(k, Path(folder) / k)) for k in HF)
    for kind, sense in PERCEPTION:
        found = perception_parity(kind, sense, Path(folder) / f"{kind}_{sense}")
        yield f"hf: a small {kind}, {sense}", found
    yield "onnx: a small network", onnx_parity(folder)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        for name, found in table(scratch):
            print(f"{name:<36} {found:.7f}")
