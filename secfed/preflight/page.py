"""The preflight as a person reads it in the terminal: one table or a few sentences for each question, then a verdict.

Reads findings; decides nothing.
"""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from secfed.preflight.check import Preflight
from secfed.preflight.encryption import Encryption, EncryptionTime
from secfed.preflight.privacy import statement
from secfed.preflight.quorum import Quorum
from secfed.preflight.timing import MaskingTime, SiteTraining, TrainingTime
from secfed.preflight.traffic import StageTraffic, Traffic, down_bytes, up_bytes
from secfed.preflight.value_range import ValueRange
from secfed.preflight.verdict import SiteVerdict
from secfed.report.markup import duration, size, words
from secfed.report.trust import TRUST

_FEW_SITES = 3


def print_preflight(found: Preflight, console: Console) -> None:
    """Everything, verdict last."""
    config = found.config
    console.print(
        f"[bold]{config.name}[/]: {len(config.sites)} sites, {config.federation.rounds} rounds, "
        f"{found.num_parameters:,} parameters ({config.model.label()}), protection {config.protection.mode}",
        highlight=False,
    )
    _range(found.value_range, console, title="Range")
    if found.value_range_asked is not None:
        _range(found.value_range_asked, console, title="Range of another cohort")
    if found.encryption is not None:
        _encryption(found.encryption, console)
    _traffic(found.traffic, console)
    _quorum(found.quorum, console)
    _time(found, console)
    _heading("Privacy", console)
    _privacy(found, console)
    _say(TRUST[config.protection.mode], console)
    if found.site is not None:
        _site(found.site, console)
    _verdict(found, console)


def _range(found: ValueRange, console: Console, *, title: str) -> None:
    analysis = found.analysis
    _heading(f"{title}: sums of at most {analysis.max_clients} sites in 32 bits", console)
    table = _table("values", "number", "within ±", "quantum", "|sum| up to")
    for row in analysis.rows:
        table.add_row(row.name, f"{row.length:,}", f"{row.max_abs:g}", f"{row.quantum:.3g}", f"{row.worst_sum:g}")
    console.print(table)
    bound = analysis.lines()[-1]
    _say(f"{found.bits} bits a value. {bound[0].upper()}{bound[1:]}.", console)
    _say(
        f"Stochastic rounding moves an entry by less than {found.entry_error:.2g} of clip_norm, and a whole update by "
        f"less than {found.update_error:.2g} of it (L2).",
        console,
    )


def _privacy(found: Preflight, console: Console) -> None:
    if found.price is None:
        _say(statement(found.config, None)["statement"], console)
        return
    for line in found.price.lines():
        _say(line, console)
    if found.site is not None and not found.site.refusals:
        policy, fit = found.site.policy, found.price.rounds_under(found.site.policy)
        _say(
            f"The site's policy allows epsilon {policy.max_epsilon:g} at delta {policy.max_delta:g} for all runs on "
            f"its patients: {fit} of {found.price.rounds} rounds if they have paid nothing yet (`secfed site ledger`).",
            console,
        )


def _encryption(found: Encryption, console: Console) -> None:
    parameters = found.parameters
    _heading(f"Encryption: {parameters.scheme}, {'exact' if found.exact else 'approximate'}", console)
    for line in found.lines():
        _say(line, console)
    _say(
        f"An upload is {found.ciphertexts:,} ciphertexts of {size(parameters.chunk_bytes)}, each for up to "
        f"{parameters.values_per_chunk:,} of its {found.entries:,} entries: {found.entry_bytes:.1f} bytes an entry. "
        "A sum is as large.",
        console,
    )
    _say(
        f"In memory, beside training and transport: at a site up to {size(found.site_memory_bytes)}, at the aggregator "
        f"up to {size(found.aggregator_memory_bytes)}, whatever the number of sites.",
        console,
    )


def _traffic(found: Traffic | None, console: Console) -> None:
    _heading("Bytes: one site, nobody drops out", console)
    if found is None:
        _say("Not counted, because the run would be refused.", console)
        return
    table = _table("", "exchanges", "up", "down")

    def add(name: str, stages: tuple[StageTraffic, ...]) -> None:
        table.add_row(name, str(len(stages)), size(up_bytes(stages)), size(down_bytes(stages)))

    add("setup, once per session", found.setup)
    add("first round", found.first_round)
    if found.rounds > 1:
        add("each later round", found.later_round)
    if found.ending:
        add("the end, once", found.ending)
    table.add_section()
    table.add_row(
        f"whole run, {found.rounds} rounds",
        str(found.exchanges_per_run),
        size(found.up_bytes_per_run),
        size(found.down_bytes_per_run),
        style="bold",
    )
    console.print(table)
    stages = [stage.stage for stage in found.later_round]
    if found.sum_bytes:
        contents = (
            f"{size(found.vector_bytes)} up is the encrypted vector, in whole ciphertexts, and {size(found.sum_bytes)} "
            "down is the encrypted sum of the round before, with the first round nothing; the model does not travel"
        )
    else:
        contents = (
            f"{size(found.vector_bytes)} up is the vector, 4 bytes an entry, and {size(found.model_bytes)} down is the "
            "model"
        )
    _say(
        f"Of a round, {contents}; the rest is protocol. A later round exchanges: {', '.join(stages)}.",
        console,
    )
    apart = [stage.stage for stage in found.first_round if stage.stage not in stages]
    if apart:
        _say(f"After a failed round, as in the first, {' and '.join(apart)} takes an exchange of its own.", console)
    _say(
        f"The aggregator receives {size(found.sites * found.up_bytes_per_run)} and sends "
        f"{size(found.sites * found.down_bytes_per_run)} in all. Protocol messages were counted in a run in miniature "
        f"with {words(map(str, found.measured_with))} sites{_extrapolated(found)}, without TLS and Flower's envelope.",
        console,
    )


def _extrapolated(found: Traffic) -> str:
    return "" if found.measured_with == (found.sites,) else f" and extrapolated to {found.sites}"


def _quorum(found: Quorum, console: Console) -> None:
    _heading("Quorum", console)
    table = _table("question", "sites")
    table.add_row("take part", str(found.sites))
    table.add_row("must join, min_cohort", str(found.min_cohort))
    if found.protection == "encrypted":
        table.add_row("must be in every sum, threshold t", str(found.threshold))
    elif found.threshold is not None:
        table.add_row("must stay to the end, threshold t", str(found.threshold))
    table.add_row("may drop out before uploading, all stages together", str(found.dropouts_before_upload))
    if found.dropouts_while_unmasking is not None:
        table.add_row("may be gone by the end, the former included", str(found.dropouts_while_unmasking))
        table.add_row("may help an aggregator that lies, below 2t - n", _at_most(found.colluding_with_active))
        table.add_row("may help one that only looks, below t", _at_most(found.colluding_with_curious))
    elif found.protection == "encrypted":
        table.add_row("it takes to open a sum", "1")
        table.add_row("may work with the aggregator: each reads every update", "0")
    if found.colluding_while_two_remain is not None:
        table.add_row("may pool what they know while 2 others stay in the sum", str(found.colluding_while_two_remain))
    console.print(table)


def _at_most(count: int | None) -> str:
    return "not even 0" if count is None or count < 0 else str(count)


def _time(found: Preflight, console: Console) -> None:
    _heading("Time, an estimate for this machine", console)
    if found.masking is None and found.encrypting is None and found.training is None:
        _say("Not measured.", console)
    if found.masking is not None:
        _masking(found.masking, console)
    if found.encrypting is not None:
        _encrypting(found.encrypting, console)
    if found.training is not None:
        _training(found.training, console)


def _masking(found: MaskingTime, console: Console) -> None:
    whole = (found.measured_entries, found.measured_streams) == (found.entries, found.streams)
    part = "" if whole else f", scaled from {found.measured_streams} over {found.measured_entries:,}"
    _say(
        f"Masking takes a site {_short(found.seconds)} of keystream a round, and the aggregator as long: "
        f"{found.streams} streams over {found.entries:,} entries{part}. Hashes and signatures come on top.",
        console,
    )


def _encrypting(found: EncryptionTime, console: Console) -> None:
    whole = found.measured_ciphertexts == found.ciphertexts
    part = "" if whole else f", scaled from {found.measured_ciphertexts} ciphertexts to {found.ciphertexts:,}"
    _say(
        f"Encryption takes a site {_short(found.encrypt_seconds)} a round, and decrypting the sum before "
        f"{_short(found.decrypt_seconds)}. The aggregator adds an upload in {_short(found.add_seconds)} and all of a "
        f"round in {_short(found.aggregator_seconds)}{part}. Hashes, signatures and the server's step, which every "
        "site takes, come on top.",
        console,
    )


def _training(found: TrainingTime, console: Console) -> None:
    table = _table("training", "images a step", "a step", "steps", "a round")
    alike: dict[tuple[int, bool], list[SiteTraining]] = {}
    for site in found.sites:
        alike.setdefault((site.batch, site.batch_is_known), []).append(site)
    for sites in alike.values():
        one = sites[0]
        table.add_row(
            _names([site.site for site in sites]),
            str(one.batch) if one.batch_is_known else f"{one.batch} (assumed)",
            _short(one.seconds_per_step),
            "?" if one.steps is None else str(one.steps),
            "?" if one.seconds_per_round is None else _short(one.seconds_per_round),
        )
    console.print(table)
    if found.seconds_in_turn is None or found.seconds_side_by_side is None:
        _say("With passes_per_round the number of steps follows from the scans, which are not read here.", console)
    else:
        _say(
            f"All {found.rounds} rounds: {duration(found.seconds_in_turn)} one site after the other, "
            f"{duration(found.seconds_side_by_side)} side by side.",
            console,
        )
    _say(
        f"Timed on {found.device} with random scans and one thread. It leaves out reading data, validation, testing, "
        "waiting for the network, and the references.",
        console,
    )


def _names(sites: list[str]) -> str:
    return words(sites) if len(sites) <= _FEW_SITES else f"{sites[0]} and {len(sites) - 1} more"


def _site(found: SiteVerdict, console: Console) -> None:
    _heading(f"Site {found.name}", console)
    policy = found.policy
    _say(
        f"Its site.toml allows {' and '.join(policy.protection)}, at least {policy.min_cohort} sites, a threshold of "
        f"{policy.min_threshold or 'floor(2n/3) + 1'} or more, up to {policy.max_parameters:,} parameters and "
        f"{policy.max_rounds:,} rounds.",
        console,
    )
    computing = found.computing
    _say(
        f"It trains with device = {found.device}, devices = {computing.shown_devices} and "
        f"compile = {str(computing.compile).lower()}.",
        console,
    )
    if not found.refusals:
        _say("It would take part in this plan.", console, style="green")
    for reason in found.refusals:
        _say(f"It would refuse: {reason}.", console, style="red")


def _verdict(found: Preflight, console: Console) -> None:
    console.print()
    for warning in found.warnings:
        _say(f"warning: {warning}", console, style="yellow")
    own = 0 if found.site is None else len(found.site.refusals)
    for finding in found.refusals[: len(found.refusals) - own]:
        _say(f"would be refused: {finding.reason}", console, style="red")
    if found.site is not None and own:
        _say(f"Not ready: site {found.site.name} would refuse, for the reasons above.", console, style="bold red")
    elif found.refusals:
        _say("Not ready.", console, style="bold red")
    else:
        _say(
            "Ready: nothing in this configuration would be refused. The data are checked when the run starts.",
            console,
            style="bold green",
        )


def _heading(text: str, console: Console) -> None:
    console.print()
    console.print(Text(text, style="bold"))


def _say(text: str, console: Console, *, style: str = "") -> None:
    console.print(Text(text, style=style))


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _short(seconds: float) -> str:
    """Milliseconds below a tenth of a second."""
    return f"{1000 * seconds:.1f} ms" if seconds < 0.1 else duration(seconds)
