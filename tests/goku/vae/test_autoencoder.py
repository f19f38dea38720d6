"""The facade over the autoencoders: shapes, scale, causality, weights from folders, refusals."""

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from torch import Tensor

from goku.config import ConfigError
from goku.config.encoders import VaeConfig
from goku.vae.autoencoder import Autoencoder
from goku.vae.kinds import KINDS

pytestmark = pytest.mark.slow  # the import of diffusers


def clip(frames: int, seed: int = 1) -> Tensor:
    return torch.rand(1, 3, frames, 32, 48, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the encoders must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module", params=["wan", "cogvideox"])
def vae(request: pytest.FixtureRequest) -> Autoencoder:
    return Autoencoder.load(VaeConfig(kind=request.param, weights="random"), latent_channels=4)


@pytest.fixture(scope="module")
def wan() -> Autoencoder:
    return Autoencoder.load(VaeConfig(weights="random"), latent_channels=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small trained Wan in diffusers layout, with a scale of its own."""
    import diffusers

    torch.manual_seed(3)
    scale = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [0.5, 2.0, 1.0, 0.25]}
    net = diffusers.AutoencoderKLWan(**(KINDS["wan"].tiny(4) | scale))
    net.save_pretrained(tmp_path / "wan")
    return tmp_path / "wan"


@pytest.mark.parametrize("frames", [1, 5, 13])
def test_strides_are_4_8_8_both_ways(vae: Autoencoder, frames: int) -> None:
    z_BCTHW = vae.encode(clip(frames))
    assert z_BCTHW.shape == (1, 4, (frames - 1) // 4 + 1, 4, 6)
    x_BCTHW = vae.decode(z_BCTHW)
    assert x_BCTHW.shape == (1, 3, frames, 32, 48)
    assert x_BCTHW.abs().max() <= 1


def test_latents_of_a_random_net_are_about_unit_normal(vae: Autoencoder) -> None:
    z_BCTHW = vae.encode(clip(9))
    assert z_BCTHW.mean((0, 2, 3, 4)).abs().max() < 1
    assert (z_BCTHW.std((0, 2, 3, 4)) - 1).abs().max() < 0.6


def test_random_weights_depend_on_the_seed_alone(wan: Autoencoder) -> None:
    torch.manual_seed(77)
    again = Autoencoder.load(VaeConfig(weights="random"), latent_channels=4)
    other = Autoencoder.load(VaeConfig(weights="random", seed=1), latent_channels=4)
    assert torch.equal(wan.encode(clip(5)), again.encode(clip(5)))
    assert not torch.allclose(wan.encode(clip(5)), other.encode(clip(5)), atol=0.1)
    assert wan.digest == again.digest != other.digest


def test_loading_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    Autoencoder.load(VaeConfig(weights="random"), latent_channels=4)
    assert torch.equal(torch.rand(1), expected)


def test_wan_is_strictly_causal(wan: Autoencoder) -> None:
    assert wan.causal
    x_BCTHW = clip(17)
    changed = x_BCTHW.clone()
    changed[:, :, 9:] = clip(8, seed=2)
    before, after = wan.encode(x_BCTHW), wan.encode(changed)
    assert torch.equal(before[:, :, :3], after[:, :, :3])
    assert (before[:, :, 3:] - after[:, :, 3:]).abs().amax((0, 1, 3, 4)).min() > 1e-3


def test_wans_first_latent_frame_is_the_latent_of_the_first_image(wan: Autoencoder) -> None:
    x_BCTHW = clip(9)
    torch.testing.assert_close(
        wan.encode(x_BCTHW)[:, :, :1], wan.encode(x_BCTHW[:, :, :1]), rtol=0, atol=1e-5
    )


def test_cogvideox_says_that_it_is_not_causal_and_is_not() -> None:
    vae = Autoencoder.load(VaeConfig(kind="cogvideox", weights="random"), latent_channels=4)
    assert not vae.causal
    x_BCTHW = clip(9)
    assert not torch.allclose(
        vae.encode(x_BCTHW)[:, :, :1], vae.encode(x_BCTHW[:, :, :1]), atol=0.05
    )


@pytest.mark.parametrize("shape", [(4, 32, 32), (5, 30, 32), (5, 32, 36)])
def test_shapes_that_do_not_divide_are_refused(
    wan: Autoencoder, shape: tuple[int, int, int]
) -> None:
    with pytest.raises(ValueError, match="4k\\+1"):
        wan.encode(torch.zeros(1, 3, *shape))


def test_a_folder_loads_with_its_own_scale(folder: Path) -> None:
    import diffusers

    vae = Autoencoder.load(VaeConfig(weights=str(folder)), latent_channels=4)
    net = diffusers.AutoencoderKLWan.from_pretrained(folder).eval()
    with torch.no_grad():
        raw_BCTHW = net.encode(clip(5)).latent_dist.mode()
    mean = torch.tensor([0.1, -0.2, 0.3, 0.0]).reshape(4, 1, 1, 1)
    std = torch.tensor([0.5, 2.0, 1.0, 0.25]).reshape(4, 1, 1, 1)
    z_BCTHW = vae.encode(clip(5))
    torch.testing.assert_close(z_BCTHW, (raw_BCTHW - mean) / std)
    with torch.no_grad():
        pixels = net.decode(raw_BCTHW).sample
    torch.testing.assert_close(vae.decode(z_BCTHW), pixels, atol=1e-4, rtol=1e-4)


def test_the_digest_follows_the_weights_not_the_path(folder: Path, tmp_path: Path) -> None:
    def digest(path: Path) -> str:
        return Autoencoder.load(VaeConfig(weights=str(path)), latent_channels=4).digest

    shutil.copytree(folder, tmp_path / "copy")
    assert digest(folder) == digest(tmp_path / "copy")
    tensors = tmp_path / "copy" / "diffusion_pytorch_model.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)
    assert digest(folder) != digest(tmp_path / "copy")


def test_a_uri_is_copied_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from goku.contract.store import Store

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remote = Store("memory://weights/wan")
    for path in folder.iterdir():
        remote.write(path.name, path.read_bytes())
    remote.write("pickled.bin", b"never copied")
    local = Autoencoder.load(VaeConfig(weights=str(folder)), latent_channels=4)
    copied = Autoencoder.load(VaeConfig(weights=remote.uri), latent_channels=4)
    assert torch.equal(local.encode(clip(5)), copied.encode(clip(5)))
    assert local.digest == copied.digest
    assert not list((tmp_path / "cache").rglob("*.bin"))


def test_weights_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    config = VaeConfig(weights=str(folder))
    with pytest.raises(ConfigError, match="4 latent channels, the model 16"):
        Autoencoder.load(config, latent_channels=16)
    with pytest.raises(ConfigError, match="AutoencoderKLWan, not AutoencoderKLCogVideoX"):
        Autoencoder.load(config.model_copy(update={"kind": "cogvideox"}), latent_channels=4)
    with pytest.raises(ConfigError, match=r"vae\.weights=.*no config\.json"):
        Autoencoder.load(VaeConfig(weights=str(tmp_path / "nowhere")), latent_channels=4)
    with pytest.raises(ConfigError, match=r"vae\.weights=None"):
        Autoencoder.load(VaeConfig(), latent_channels=4)


def test_another_stride_is_refused(folder: Path) -> None:
    import diffusers

    arguments = KINDS["wan"].tiny(4) | {"temperal_downsample": [False, False, True]}
    diffusers.AutoencoderKLWan(**arguments).save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"stride is \(2, 8\), not \(4, 8\)"):
        Autoencoder.load(VaeConfig(weights=str(folder)), latent_channels=4)


def test_missing_tensors_are_refused(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["quant_conv.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"tensors are missing: quant_conv\.weight"):
        Autoencoder.load(VaeConfig(weights=str(folder)), latent_channels=4)


def test_config_json_names_the_class(folder: Path) -> None:
    named = json.loads((folder / "config.json").read_text())
    assert named["_class_name"] == KINDS["wan"].class_name
