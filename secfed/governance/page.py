"""The board's page: one HTML file that loads nothing, for the screen and for paper, with room to sign.

Its statements follow from `secfed.governance.facts`; what a protection claims is said in the words of SECURITY.md, with
this run's own numbers in them. What is missing is said where it is missing.
"""

from pathlib import Path

from privacy.accounting import RELATION, UNIT
from secfed.audit.suite import ATTACKS
from secfed.governance.facts import AttackResults, GovernanceFacts, SiteFacts, gather
from secfed.report.document import document, section, write_page
from secfed.report.markup import Child, Markup, join, listing, scrollable, tag, words
from secfed.report.stylesheet import STYLESHEET
from secfed.report.trust import AGGREGATOR_SAW, TRUST, cohort_warning
from secfed.results import NO_DP, SIMULATED_NOISE

__all__ = ["build_governance_page", "gather", "render"]

_STYLE = (
    STYLESHEET
    + """
.verdict { padding: .9rem 1.1rem; border-radius: .5rem; border: 1px solid var(--rule); border-left: 6px solid
  var(--accent); background: var(--surface); }
.verdict.bad { border-left-color: var(--warn); background: var(--warn-soft); }
.verdict b { display: block; font-size: 1.15rem; }
.wide td, .wide th { text-align: left; }
.wide td { min-width: 9rem; max-width: 26rem; }
.sign { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: 2.2rem 1.6rem;
  margin-top: 2.4rem; }
.sign div { border-top: 1px solid var(--ink-soft); padding-top: .3rem; font-size: .85rem; color: var(--ink-soft); }
.digest { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .84em; overflow-wrap: anywhere; }
@media print { section { margin-top: 1.6rem; break-inside: avoid-page; } .sign { break-inside: avoid; } }
"""
)

_RULES = {
    "protection": "protections of updates",
    "encryption_schemes": "encryption schemes",
    "privacy": "modes of differential privacy",
    "max_epsilon": f"highest epsilon, all runs together, per {UNIT}",
    "max_delta": "at a delta of at most",
    "min_cohort": "fewest sites in a sum",
    "min_threshold": "fewest sites that can open a sum",
    "min_cohort_change": "fewest sites by which two sums may differ",
    "second_sum": "a second sum over one model",
    "architectures": "models",
    "metrics": "what may travel beside the update",
    "max_parameters": "largest model, in parameters",
    "max_rounds": "most rounds in a run",
    "min_samples_per_round": "fewest slices or patches in a round",
    "log_fields": "details in the audit log",
}


def build_governance_page(facts: GovernanceFacts, *, out: Path) -> Path:
    """Write the page to `out`, whole or not at all."""
    return write_page(out, render(facts))


def render(facts: GovernanceFacts) -> str:
    """The page as text."""
    body = join(
        tag(
            "header", tag("h1", f"Run {facts.plan.name}"), tag("p", "secfed: for the governance board", class_="kicker")
        ),
        _summary(facts),
        section("who", "Who took part", _who(facts)),
        section("protection", "What left the sites, and what protects it", _protection(facts)),
        section("patients", "What it says about one patient", _patients(facts)),
        section("transcript", "Does the record hold?", _transcript(facts)),
        section("attacks", "Was it attacked?", _attacks(facts.attacks, facts)),
        section("site", "At this site", _site(facts.site)),
        section("not", "What this page cannot say", _limits(facts)),
        section("decision", "Decision", _decision()),
        tag(
            "p",
            f"Made {facts.made} by secfed, code {facts.code[:16]}. It loads nothing and sends nothing.",
            class_="note",
        ),
    )
    return document(f"secfed governance: {facts.plan.name}", body, style=_STYLE)


def _summary(facts: GovernanceFacts) -> Markup:
    bad = _problems(facts)
    sites = len(facts.rounds_of)
    first = (
        f"{sites} sites trained “{facts.plan.name}” ({facts.plan.model.label()}) for {facts.rounds_done} of "
        f"{facts.plan.federation.rounds} rounds. {AGGREGATOR_SAW[facts.plan.protection.mode]}"
    )
    if bad:
        verdict = tag(
            "div", tag("b", "Needs attention"), tag("ul", [tag("li", item) for item in bad]), class_="verdict bad"
        )
    else:
        verdict = tag(
            "div",
            tag("b", "Nothing found that contradicts the record"),
            tag("span", "Every check below was made when this page was; each section says what it rests on."),
            class_="verdict",
        )
    return join(tag("p", first, class_="lead"), verdict)


def _problems(facts: GovernanceFacts) -> list[str]:
    found = []
    mode = facts.plan.protection.mode
    if mode == "plain":
        found.append("Updates travelled unprotected: the aggregator could read every site's.")
    if facts.verified is not None and not facts.verified.verified:
        found.append("The transcript does not verify: see “Does the record hold?”.")
    if facts.verified is None and mode != "plain":
        found.append(f"There is no transcript to verify: {facts.verify_problem}.")
    if facts.roster_problem is not None and mode != "plain":
        found.append(f"The roster does not hold today: {facts.roster_problem}.")
    if facts.rounds_done < facts.plan.federation.rounds:
        found.append(f"The run has not ended: {facts.rounds_done} of {facts.plan.federation.rounds} rounds are done.")
    if facts.attacks is not None and facts.attacks.deviations:
        found.append(
            f"The attack suite found {len(facts.attacks.deviations)} verdicts that this version does not claim."
        )
    if facts.site is not None and any(
        finding.status == "failed" for standing in facts.site.ledgers for finding in standing.findings
    ):
        found.append("A privacy ledger of this site is not what it should be.")
    return found


def _who(facts: GovernanceFacts) -> Markup:
    rows = [
        tag("tr", tag("th", name, scope="row"), tag("td", f"{count} of {facts.rounds_done} rounds"))
        for name, count in facts.rounds_of.items()
    ]
    table = scrollable(
        tag(
            "table",
            tag("thead", tag("tr", tag("th", "site", scope="col"), tag("th", "its update was in", scope="col"))),
            tag("tbody", rows),
            class_="wide",
        ),
        "Sites and rounds",
    )
    roster = facts.roster
    vouched: list[tuple[Child, Child]] = []
    if roster is not None:
        vouched = [
            ("consortium", f"{roster.consortium}, version {roster.version} of its roster"),
            (
                "vouched for by",
                join("the consortium's key ", tag("span", facts.anchor_fingerprint, class_="digest"), " (compare it)"),
            ),
        ]
    times = [("first session (UTC)", facts.began), ("last entry (UTC)", facts.ended)]
    pairs = [*vouched, *((name, value) for name, value in times if value is not None)]
    problem = None if facts.roster_problem is None else tag("p", facts.roster_problem, class_="missing")
    return join(table, listing(pairs) if pairs else None, problem)


def _protection(facts: GovernanceFacts) -> Markup:
    mode, sites = facts.plan.protection.mode, len(facts.rounds_of)
    warning = None
    if facts.smallest_cohort is not None and facts.smallest_cohort > 1:
        warning = cohort_warning(mode, facts.smallest_cohort)
    rows = _adversaries(mode, threshold=facts.threshold, sites=sites)
    table = scrollable(
        tag(
            "table",
            tag(
                "thead",
                tag("tr", [tag("th", name, scope="col") for name in ("who", "learns", "because, or unless")]),
            ),
            tag(
                "tbody",
                [tag("tr", tag("th", who, scope="row"), tag("td", what), tag("td", why)) for who, what, why in rows],
            ),
            class_="wide",
        ),
        "Who learns what",
    )
    what_left = (
        "No scan and no label left a site. What left is the change that training made to the model's numbers, the "
        "number of cases as a weight, and the mean loss"
        + (" and validation scores" if facts.plan.federation.validate_every else "")
        + ", all in one vector."
        if not facts.plan.privacy.guarantees
        else "No scan, no label, no score and no count left a site: only a noisy change of the model's numbers."
    )
    return join(
        tag("p", what_left),
        tag("p", TRUST[mode]),
        table,
        None if warning is None else tag("strong", warning, class_="warning"),
    )


def _adversaries(mode: str, *, threshold: int | None, sites: int) -> list[tuple[str, str, str]]:
    with_model = (
        "whoever gets the final model",
        "what the model remembers of its training data",
        "only differential privacy bounds that: see below",
    )
    network = (
        "the network between",
        "who talks to whom, when and how much",
        "TLS with certificates of the consortium; protocol messages are signed besides",
    )
    if mode == "plain":
        return [("the aggregator", "every site's update", "nothing prevents it"), network, with_model]
    if mode == "encrypted":
        return [
            ("the aggregator", "who took part, when, and sizes", "it holds no key"),
            ("an aggregator that lies", "the same; sites refuse a false sum at once", "no site works with it"),
            (
                "any one site, with the aggregator",
                "every update of every site",
                "all sites hold one key: by contract only",
            ),
            ("the other sites", "the sum of every round, and the model", "they are meant to"),
            network,
            with_model,
        ]
    bound = 2 * (threshold or 0) - sites
    return [
        ("the aggregator", "the sum of each round, its total weight and mean metrics", "masks cancel in the sum only"),
        (
            "an aggregator that lies, alone",
            "the same",
            f"{threshold} of {sites} sites sign to one another whose updates are in a sum before any is opened",
        ),
        (
            f"the aggregator with {max(0, bound - 1)} sites at most",
            "the same, and what those sites know",
            f"with {bound} or more that lie along, or {threshold} that look on, single updates can be opened",
        ),
        ("the other sites", "the model of every round", "they are meant to; the sum of few sites is close to each"),
        network,
        with_model,
    ]


def _patients(facts: GovernanceFacts) -> Markup:
    privacy = facts.plan.privacy
    if privacy.mode == "off":
        return tag(
            "p",
            "No differential privacy. Nothing bounds what the sums or the model say about one patient: someone who has "
            "the model may be able to tell whether a patient's scan was used to train it.",
            class_="missing",
        )
    if not privacy.guarantees:
        return tag("p", f"{NO_DP}: updates of patients were clipped, and no noise was added.", class_="missing")
    told = (
        f"The plan adds noise (mode “{privacy.mode}”) so that what all releases together say about one {UNIT} is "
        f"bounded. The relation is {RELATION}: two data sets that differ in one {UNIT}'s contribution. Each site's own "
        "ledger holds the account, charges before a patient is sampled, and refuses beyond the site's cap."
    )
    if facts.site is None:
        return join(
            tag("p", told), tag("p", "No site's folder was given, so no ledger was read: --site.", class_="missing")
        )
    if not facts.site.ledgers:
        return join(
            tag("p", told), tag("p", f"Site {facts.site.name} has no ledger: no run has charged it.", class_="missing")
        )
    rows = [
        tag(
            "tr",
            tag("th", standing.path.name[:12], scope="row"),
            tag("td", f"epsilon {standing.spent.epsilon:.4g} of {standing.account.cap_epsilon:g}"),
            tag("td", f"at delta {standing.account.delta:g}, per {UNIT}, {RELATION}, {standing.spent.accountant}"),
            tag("td", standing.spent.attacker(0.01).sentence()),
        )
        for standing in facts.site.ledgers
    ]
    head = tag("tr", [tag("th", name, scope="col") for name in ("data set", "paid, of its cap", "counted", "meaning")])
    table = tag("table", tag("thead", head), tag("tbody", rows), class_="wide")
    simulated = tag("strong", f"{SIMULATED_NOISE}: this site's noise follows from a seed.", class_="warning")
    return join(tag("p", told), scrollable(table, "Ledgers"), simulated if facts.site.simulated_noise else None)


def _transcript(facts: GovernanceFacts) -> Markup:
    report = facts.verified
    if report is None:
        return tag("p", f"Nothing was verified: {facts.verify_problem}.", class_="missing")
    parts: list[Child] = []
    for verdict in report.verdicts:
        failed = verdict.failed
        replayed = f"{len(verdict.replayed)} of {verdict.rounds} rounds computed again, bit for bit"
        state = f"{len(failed)} problems" if failed else "verified"
        parts.append(
            listing(
                [
                    ("transcript", f"{state}: {replayed}, the others by signatures and receipts"),
                    ("consortium's key", verdict.anchor),
                    ("sites' receipts", f"{verdict.receipts} ({verdict.receipts_from})"),
                    *(("problem", f"{item.where}: {item.what}") for item in failed[:10]),
                ]
            )
        )
    for name, log in report.logs.items():
        state = f"{len(log.problems)} problems, the first in line {log.problems[0].line}" if log.problems else "whole"
        parts.append(
            listing(
                [
                    ("audit log", f"{Path(name).name}: {log.lines} lines, {state}"),
                    ("its last digest", join(tag("span", log.last, class_="digest"), " (keep it elsewhere)")),
                ]
            )
        )
    cannot = tag("ul", [tag("li", line) for line in report.cannot_be_proved])
    return join(parts, tag("h3", "What no transcript proves"), cannot)


def _attacks(attacks: AttackResults | None, facts: GovernanceFacts) -> Markup:
    mode = facts.plan.protection.mode
    command = f"secfed audit attack --mode {mode} --json > attacks.json"
    if attacks is None:
        return tag(
            "p",
            "No attack results were given: ",
            tag("code", command),
            ", then --attacks attacks.json.",
            class_="missing",
        )
    ran = attacks.refused + len(attacks.limits)
    told = (
        f"{ran} attacks on “{attacks.mode}” were run against this program: {attacks.refused} were refused, "
        f"{len(attacks.limits)} succeed and are limits that SECURITY.md states, {attacks.not_applicable} do not apply."
    )
    missing = None
    if attacks.missing:
        missing = tag("p", f"Not in these results: {words(attacks.missing)}.", class_="missing")
    deviations = [tag("strong", text, class_="warning") for text in attacks.deviations]
    return join(
        tag("p", told),
        deviations,
        join(tag("h3", "Those that succeed"), _succeeding(attacks)) if attacks.limits else None,
        missing,
        tag("p", "Made with ", tag("code", command), ".", class_="note"),
    )


def _succeeding(attacks: AttackResults) -> Markup:
    """What each attack that succeeds does, and what there is against it."""
    known = {attack.name: attack for attack in ATTACKS}
    rows = []
    for name in attacks.limits:
        attack = known.get(name)
        threat = "this version does not know it" if attack is None else attack.threat
        defence = "" if attack is None else attack.defence_in(attacks.mode)
        rows.append(tag("tr", tag("td", threat, " (", tag("code", name), ")"), tag("td", defence)))
    head = tag("tr", [tag("th", name, scope="col") for name in ("what is done", "what there is against it")])
    return scrollable(tag("table", tag("thead", head), tag("tbody", rows), class_="wide"), "Attacks that succeed")


def _site(site: SiteFacts | None) -> Markup:
    if site is None:
        return tag(
            "p",
            "No site's folder was given (--site): this page says nothing about one site's approvals, policy or budget.",
            class_="missing",
        )
    approvals = [
        tag(
            "tr",
            tag("td", approval.time),
            tag("td", approval.by),
            tag("td", approval.reason),
            tag("td", tag("span", approval.code[:16], class_="digest")),
        )
        for approval in site.approvals
    ]
    head = tag(
        "tr", [tag("th", name, scope="col") for name in ("when (UTC)", "who approved", "on what grounds", "release")]
    )
    table = tag("table", tag("thead", head), tag("tbody", approvals), class_="wide")
    installed = (
        "The release that made this page is among them."
        if site.installed_approved
        else "The release that made this page is not among them: runs for it are refused here."
    )
    shown = [(_RULES.get(name, name), _plain(value)) for name, value in site.policy.items() if value is not None]
    return join(
        tag("p", f"Site {site.name} answered {site.answers} messages and refused {site.refusals}, by its audit log."),
        tag("h3", "Releases that its reviewer approved"),
        scrollable(table, "Approvals") if approvals else tag("p", "None: every run is refused.", class_="missing"),
        tag("p", installed, class_="note") if approvals else None,
        tag("h3", "What its policy allows"),
        listing(shown),
    )


def _limits(facts: GovernanceFacts) -> Markup:
    items = [
        "Whether sites trained honestly, or on what they say: a protection hides a poisoned update like a good one.",
        "What becomes of the model afterwards: that is for the consortium's contract.",
        "Whether each site ran on a machine of its own; in a simulation all parties share one.",
        "Whether anybody kept more than the record holds.",
    ]
    if facts.site is None:
        items.append("What any one site approved, refused or paid.")
    return tag("ul", [tag("li", item) for item in items])


def _decision() -> Markup:
    fields = ("approved / approved with conditions / refused", "conditions", "name and function", "date and signature")
    return tag("div", [tag("div", field) for field in fields], class_="sign")


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
