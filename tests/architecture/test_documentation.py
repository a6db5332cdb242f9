"""The documentation names what is there: every configuration key, and no test that does not exist."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from secfed import augmentation_config as augmentation
from secfed import config
from secfed.federation_config import FederationConfig
from secfed.privacy_config import PrivacyConfig
from secfed.provisioning.aggregator_service import AggregatorFile
from secfed.provisioning.consortium import ConsortiumFile
from secfed.site_config import SiteData, SiteFile, SitePolicy

ROOT = Path(__file__).parents[2]
TABLES = [
    config.RunConfig,
    config.SiteConfig,
    config.PhantomSource,
    config.PreprocessingConfig,
    config.ModelConfig,
    augmentation.GinConfig,
    augmentation.IpaConfig,
    augmentation.NnunetConfig,
    augmentation.RandConvConfig,
    augmentation.FdaConfig,
    augmentation.AprConfig,
    augmentation.BezierConfig,
    augmentation.SlaugConfig,
    augmentation.PiecewiseConfig,
    augmentation.ConsistencyConfig,
    augmentation.AffineConfig,
    augmentation.AugmentationConfig,
    config.TrainingConfig,
    FederationConfig,
    config.ProtectionConfig,
    PrivacyConfig,
    config.EvaluationConfig,
    SiteFile,
    SiteData,
    SitePolicy,
    AggregatorFile,
    ConsortiumFile,
]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_every_configuration_key_is_documented(table: type[BaseModel]) -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    missing = [name for name in table.model_fields if not re.search(rf"\b{name}\b", text)]
    assert not missing


def test_every_test_that_security_md_names_exists() -> None:
    """A claim is only as good as the test behind it, so the names must be real."""
    named = set(re.findall(r"\btest_[a-z0-9_]+\b", (ROOT / "SECURITY.md").read_text(encoding="utf-8")))
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in [path.stem, *re.findall(r"def (test_[a-z0-9_]+)", path.read_text(encoding="utf-8"))]
    }
    assert len(named) > 10
    assert not named - defined
