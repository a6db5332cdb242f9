"""How many sites a round needs, how many may drop out, and how many may collude: the numbers behind the threshold.

Computed by whoever plans a run. Sources: Bonawitz et al. 2017 (eprint 2017/281), section 4, for dropouts and a curious
aggregator; `privacy.secagg.threshold` for an active one; `privacy.he.protocol` for encrypted runs, where no number of
sites may help the aggregator. It says nothing about what the sum itself reveals.
"""

from dataclasses import asdict, dataclass
from typing import Any

from privacy.secagg.threshold import default_threshold
from secfed.config import ProtectionMode, RunConfig
from secfed.report.trust import cohort_warning


@dataclass(frozen=True, kw_only=True)
class Quorum:
    """The quorum of one cohort; in plain mode `threshold` and the numbers of colluding sites are None.

    In an encrypted run `threshold` is the minimum of sites in every sum.
    """

    sites: int
    min_cohort: int
    threshold: int | None
    protection: ProtectionMode = "masked"

    @property
    def needed(self) -> int:
        """Sites that must be there at every stage up to the uploads."""
        return max(self.min_cohort, self.threshold or 1)

    @property
    def dropouts_before_upload(self) -> int:
        """Sites that may be gone, all stages up to the uploads together."""
        return max(0, self.sites - self.needed)

    @property
    def dropouts_while_unmasking(self) -> int | None:
        """Sites, those gone before included, whose answers the last stage can do without; None where there is none."""
        return self.sites - self.threshold if self.threshold is not None and self.protection == "masked" else None

    @property
    def colluding_with_active(self) -> int | None:
        """Sites that may help an aggregator that lies, n_c < 2 t - n; below 0 where even none may. Encrypted: none."""
        if self.protection == "encrypted":
            return 0
        return None if self.threshold is None else 2 * self.threshold - self.sites - 1

    @property
    def colluding_with_curious(self) -> int | None:
        """Sites that may help an aggregator that only looks, n_c < t: the masks stay closed. Encrypted: none."""
        if self.protection == "encrypted":
            return 0
        return None if self.threshold is None else self.threshold - 1

    @property
    def colluding_while_two_remain(self) -> int | None:
        """Sites that may pool what they know while at least two others stay in the smallest sum."""
        return None if self.threshold is None else max(0, self.needed - 2)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            **asdict(self),
            "needed_before_upload": self.needed,
            "dropouts_before_upload": self.dropouts_before_upload,
            "dropouts_while_unmasking": self.dropouts_while_unmasking,
            "colluding_with_active_aggregator": self.colluding_with_active,
            "colluding_with_curious_aggregator": self.colluding_with_curious,
            "colluding_while_two_others_remain": self.colluding_while_two_remain,
        }

    def warnings(self) -> list[str]:
        """What a planner should know, in plain words."""
        found = []
        if self.threshold is None:
            found.append("Plain mode: the aggregator can read every update. Nothing hides a site from it.")
        else:
            small = cohort_warning(self.protection, self.sites)
            found += [] if small is None else [small]
        if self.dropouts_before_upload == 0:
            found.append(f"No site may drop out: every round needs all {self.sites}.")
        return found


def quorum_of(config: RunConfig) -> Quorum:
    """The quorum of a run with all its sites."""
    sites = len(config.sites)
    threshold = None
    if config.protection.mode != "plain":
        # One site alone has no threshold; that it cannot run so is refused elsewhere.
        threshold = config.protection.threshold or (default_threshold(sites) if sites > 1 else 1)
    return Quorum(
        sites=sites, min_cohort=config.federation.min_cohort, threshold=threshold, protection=config.protection.mode
    )
