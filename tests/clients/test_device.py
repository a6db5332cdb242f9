"""The site's own file decides where it computes."""

import pytest
import tomli_w
import torch

from clients.device import compute_of, device_description, torch_device
from secfed.config import TrainingPlan
from secfed.errors import ConfigError, PolicyRefusal
from secfed.site_config import Computing, SiteData, SiteFile, load_site_file, save_site_file


def test_auto_takes_cuda_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch_device("auto").type == "cuda"
    assert torch_device("cpu").type == "cpu"


def test_without_cuda_auto_is_the_cpu_and_cuda_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_device("auto").type == "cpu"
    assert device_description(torch_device("auto")) == "cpu"
    with pytest.raises(ConfigError, match="no CUDA device"):
        torch_device("cuda")


def test_the_report_says_what_of_the_machine_makes_another_model():
    cpu = torch.device("cpu")
    assert device_description(cpu, Computing(devices=2)) == "cpu, 2 devices a batch"
    assert device_description(cpu, Computing(compile=True)) == "cpu, compiled"


def site(folder, **more):
    data = (SiteData(name="ct-a", folder=folder, cache=folder),)
    save_site_file(folder, SiteFile(name="ct-a", data=data, **more))
    return load_site_file(folder)


def plan_of(**privacy):
    mode = privacy.get("mode", "off")
    return TrainingPlan.model_validate(
        {
            "model": {"channels": [4, 8]},
            "training": {"optimizer_state": "reset", "batch_size": 4},
            "federation": {"weighting": "uniform" if mode == "silo" else "examples"},
            "privacy": {
                **({} if mode in ("off", "clip_only") else {"noise_multiplier": 1.0, "delta": 1e-5}),
                **privacy,
            },
        }
    )


def test_a_site_trains_on_one_device_uncompiled_unless_its_file_says_so(tmp_path):
    assert site(tmp_path).computing == Computing(devices=1, compile=False)
    found = compute_of(site(tmp_path, device="cpu"))
    assert (found.device.type, found.replicas, found.compiled) == ("cpu", (), False)
    more = compute_of(site(tmp_path, device="cpu", devices=2, compile=True))
    assert ([device.type for device in more.replicas], more.compiled) == (["cpu", "cpu"], True)


def test_devices_are_counted_or_numbered(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)

    def found(devices):
        return compute_of(site(tmp_path, devices=devices))

    assert found(1).device == torch.device("cuda")
    assert found(3).replicas == tuple(torch.device("cuda", number) for number in range(3))
    assert found((3, 1)).replicas == (torch.device("cuda", 3), torch.device("cuda", 1))
    assert (found((2,)).device, found((2,)).replicas) == (torch.device("cuda", 2), ())
    with pytest.raises(ConfigError, match=r"devices = 5, but torch finds 4 CUDA devices"):
        found(5)
    with pytest.raises(ConfigError, match=r"devices = \[0, 4\], but torch finds 4"):
        found((0, 4))


def test_numbers_of_cuda_devices_mean_nothing_to_a_cpu(tmp_path):
    with pytest.raises(ConfigError, match=r'devices = \[0, 1\] .*device = "cpu".* how many processes'):
        compute_of(site(tmp_path, device="cpu", devices=(0, 1)))


@pytest.mark.parametrize("devices", [0, -1, True, 1.5, "two", [], [0, 0], [-1], [0, "1"]], ids=str)
def test_what_is_no_number_of_devices_is_refused_in_one_line(tmp_path, devices):
    (tmp_path / "site.toml").write_text(
        tomli_w.dumps({"name": "ct-a", "devices": devices, "data": [{"name": "ct-a", "folder": ".", "cache": "."}]})
    )
    with pytest.raises(ConfigError, match=r"devices = .*at least 1, or a list of different numbers") as caught:
        load_site_file(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["clip_only", "local", "distributed", "silo"])
@pytest.mark.parametrize("setting", [{"devices": 2}, {"devices": (0, 1)}, {"compile": True}], ids=str)
def test_private_plans_are_trained_on_one_device_as_they_are(mode, setting):
    with pytest.raises(PolicyRefusal, match=rf"{next(iter(setting))} = .*privacy.mode = '{mode}'.*for this run"):
        Computing(**setting).check_plan(plan_of(mode=mode))
    Computing().check_plan(plan_of(mode=mode))
    Computing(**setting).check_plan(plan_of())


def test_every_device_needs_an_image_of_every_step():
    Computing(devices=4).check_plan(plan_of())
    with pytest.raises(PolicyRefusal, match=r"devices = 5: a step of this plan has 4 images here.*at most 4"):
        Computing(devices=5).check_plan(plan_of())
