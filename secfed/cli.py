"""The command line. Each command checks its arguments, calls one function and shows what came back.

Exit codes: 0 done; 1 anything unexpected; 2 configuration; 3 data; 4 run folder; 5 policy; 6 round aborted;
7 group key lost (secfed.errors). Every command has --json for scripts: one JSON object on standard output, messages on
standard error.
"""

import sys
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from secfed.aggregator_command import aggregator_app
from secfed.command_line import JsonOption, print_json
from secfed.convert_command import convert_command
from secfed.data_command import data_app
from secfed.errors import ConfigError, SecfedError
from secfed.predict_command import predict_command
from secfed.provision_command import provision_app
from secfed.site_command import site_app
from secfed.site_config import ONE_DEVICE, Computing
from secfed.split_command import split_command

app = typer.Typer(
    name="secfed",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Federated training of one CT and MRI segmentation model across hospitals, updates masked or encrypted.",
)
data_app.command("convert")(convert_command)
data_app.command("split")(split_command)
app.add_typer(data_app, name="data")
audit_app = typer.Typer(no_args_is_help=True, help="Check a run without trusting whoever ran it.")
app.add_typer(audit_app, name="audit")
privacy_app = typer.Typer(no_args_is_help=True, help="Price a plan in epsilon, and find the noise for a budget.")
app.add_typer(privacy_app, name="privacy")
app.add_typer(provision_app, name="provision")
app.add_typer(aggregator_app, name="aggregator")
app.add_typer(site_app, name="site")

errors = Console(stderr=True)

EngineOption = Annotated[
    str, typer.Option("--engine", help="in_process (default: one machine, no network) or ray (Flower's simulation).")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run of this configuration.")]
DeltaOption = Annotated[
    float | None, typer.Option("--delta", metavar="D", help="Chance that the guarantee fails altogether, as 1e-5.")
]
PatientsOption = Annotated[
    int | None, typer.Option("--patients", metavar="N", help="Instead of --delta: take min(1e-5, 1/(10 N)).")
]
CoresOption = Annotated[int | None, typer.Option("--cores", min=1, help="CPU cores to use; default: all.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        from secfed.provenance import code_digest, versions

        sys.stdout.write(f"secfed {versions()['secfed']} (code {code_digest()[:12]})\n")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Federated training of one CT and MRI segmentation model across hospitals, updates masked or encrypted."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Run folder to write.")] = Path("runs/demo"),
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Another seed than the shipped one.")] = None,
    engine: EngineOption = "in_process",
    resume: ResumeOption = False,
    cores: CoresOption = None,
    as_json: JsonOption = False,
) -> None:
    """The main job on generated data: four hospitals, masking on, references beside it, one report.

    Two CT sites with 20 volumes each and two MRI sites with 5 each train one U-Net with GIN augmentation. The same
    federation without GIN and centralised training on the pooled data run beside it. It takes less than 8 minutes on
    two CPU cores. The configuration is shipped with the package: `secfed run` takes a copy of it.

    Example: secfed demo --out runs/demo && open runs/demo/report.html
    """
    from secfed.config import load_run_config

    with resources.as_file(resources.files("secfed") / "configs" / "demo.toml") as path:
        config = load_run_config(path)
    if seed is not None:
        config = config.model_copy(update={"seed": seed})
    _run(config, out=out, engine=engine, resume=resume, cores=cores, as_json=as_json)


@app.command("run")
def run_command(
    config_file: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="What to run; see docs/configuration.md.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder to write; default: runs/NAME from the configuration.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", metavar="FOLDER", help="Prepared volumes, shared with other runs; default: in --out."),
    ] = None,
    engine: EngineOption = "in_process",
    resume: ResumeOption = False,
    cores: CoresOption = None,
    devices: Annotated[
        int,
        typer.Option(
            "--devices",
            min=1,
            help="GPUs, or without one processes, that train a batch together. Not with [privacy].",
        ),
    ] = 1,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Have torch.compile make the network. Not with [privacy].")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train, test and report what a TOML file describes.

    Data, labels and the configuration are checked before any training starts. A run folder belongs to one
    configuration; --resume goes on from the last finished round. With --cache, what `secfed data prepare` or another
    run left there is not prepared again, and several runs may use it at once. It holds patient data in the clear.

    --devices and --compile are of this machine and not of the run: they hold for every site and reference of this
    attempt. Several devices draw other views than one does.

    Example: secfed run my-study.toml --out runs/my-study
    """
    from secfed.config import load_run_config

    config = load_run_config(config_file)
    _run(
        config,
        out=out if out is not None else Path("runs") / config.name,
        cache=cache,
        engine=engine,
        resume=resume,
        cores=cores,
        computing=Computing(devices=devices, compile=compiled),
        as_json=as_json,
    )


@app.command()
def report(
    run_folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="One or more finished run folders, or one study folder.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="HTML file; default: report.html in the first folder.")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    governance: Annotated[
        bool, typer.Option("--governance", help="The page for a governance board, of one run; also governance.html.")
    ] = False,
    site: Annotated[
        Path | None, typer.Option("--site", metavar="FOLDER", help="With --governance: this site's own side, too.")
    ] = None,
    attacks: Annotated[
        Path | None,
        typer.Option("--attacks", metavar="FILE", help="With --governance: what `secfed audit attack --json` printed."),
    ] = None,
    anchor: Annotated[
        Path | None, typer.Option("--anchor", metavar="FILE", help="With --governance: the consortium's public key.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build one self-contained HTML page from finished runs, or from a study; it works offline.

    With --governance, of one run, deployed or not: who took part, what protected whom against whom, what it says about
    a patient, whether the record verifies, and what a site approved. It verifies the transcript anew, and prints well.

    A folder with a study.json is a study: many runs that answer questions together. It has a page of its own, and
    --json prints its tables too.

    Example: secfed report runs/demo --open
    """
    from secfed.report import build_report, study_tables

    if governance:
        written = _governance(run_folders, out=out, site=site, attacks=attacks, anchor=anchor)
        if as_json:
            print_json({"report": str(written)})
        else:
            Console().print(f"Report: {written}", soft_wrap=True)
        return
    if site is not None or attacks is not None or anchor is not None:
        raise ConfigError("--site, --attacks and --anchor belong to --governance")
    page = build_report(run_folders, out=out if out is not None else run_folders[0] / "report.html")
    if as_json:
        tables = study_tables(run_folders[0])
        print_json({"report": str(page)} | ({} if tables is None else {"study": tables}))
    else:
        Console().print(f"Report: {page}", soft_wrap=True)
    if open_page:
        typer.launch(str(page))


@app.command()
def preflight(
    config_file: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The run to look at.")],
    site: Annotated[
        Path | None,
        typer.Option("--site", metavar="FOLDER", help="Ask this site's site.toml whether it would take part."),
    ] = None,
    roster: Annotated[
        Path | None,
        typer.Option(
            "--roster",
            metavar="FOLDER",
            help="A deployed run: its sites are the members in this folder of a site or of the aggregator.",
        ),
    ] = None,
    clients: Annotated[
        int | None, typer.Option("--clients", min=1, help="Show the range for another largest number of sites, too.")
    ] = None,
    noise_tail: Annotated[
        int, typer.Option("--noise-tail", min=0, help="Integers that summed noise may reach; the range must hold it.")
    ] = 0,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Time masking and training steps on this machine.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Say what a run needs before anything runs: range, bytes, quorum, time, and who would refuse.

    It reads the configuration and no scan. A plan without [[sites]] is that of a deployed run: its sites are the
    members of the roster in the folder of --site, or of --roster.

    Exit code 0: ready. 2: the configuration would be refused. 5: the site's policy would refuse. 6: a run in miniature
    failed.

    Example: secfed preflight my-study.toml --site /srv/secfed/ct-a
    """
    from secfed.preflight.check import check
    from secfed.preflight.members import run_to_look_at
    from secfed.preflight.page import print_preflight

    run = run_to_look_at(config_file, site=site, roster=roster)
    with Console(stderr=True, quiet=as_json).status("Measuring and rehearsing"):
        found = check(run, clients=clients, noise_tail=noise_tail, site_folder=site, measure=measure)
    if as_json:
        print_json({"config": str(config_file), **found.as_dict()})
    else:
        print_preflight(found, Console())
    if found.exit_code:
        raise typer.Exit(found.exit_code)


app.command("predict")(predict_command)


@audit_app.command("verify")
def audit_verify(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or an aggregator's folder.")],
    anchor: Annotated[
        Path | None,
        typer.Option("--anchor", metavar="FILE", help="The consortium's public key; default: the one in RUN."),
    ] = None,
    receipts: Annotated[
        list[Path] | None,
        typer.Option("--receipts", metavar="FILE", help="A site's receipts.jsonl; repeat for every site."),
    ] = None,
    logs: Annotated[
        list[Path] | None,
        typer.Option("--log", metavar="FILE", help="An audit.jsonl to check, too; repeat for several."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check the transcripts of a run offline: every signature, every sum bit for bit, of masked runs every step too.

    Of an encrypted run the sum of ciphertexts is formed again; the model is for holders of the sites' key alone. A
    deployed run's audit log is checked line by line, and so are those that --log names.

    It needs no key but the consortium's public one, trusts neither the aggregator nor this program's other side, and
    says what it proved, what it checked by signatures only, and what no transcript can prove. Exit code 0: all holds.
    1: something does not. 4: there is nothing to verify.

    Example: secfed audit verify runs/demo --anchor consortium.pub --receipts ct-a.jsonl --receipts mr-b.jsonl
    """
    from rich.progress import Progress

    from secfed.audit.verdict_page import print_audit
    from secfed.audit.verify import count_entries, verify_run

    # Not secfed.display: it loads the engines, and with them the roles that an auditor's process must not hold.
    with Progress(console=Console(stderr=True), disable=as_json, transient=True) as bars:
        task = bars.add_task("Verifying", total=count_entries(run_folder))
        found = verify_run(
            run_folder, anchor=anchor, receipts=receipts or (), logs=logs or (), progress=lambda: bars.advance(task)
        )
    if as_json:
        print_json(found.as_dict())
    else:
        print_audit(found, Console())
    if not found.verified:
        raise typer.Exit(1)


@audit_app.command("attack")
def audit_attack(
    mode: Annotated[str, typer.Option("--mode", help="plain, masked, encrypted, or all.")] = "all",
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Only this attack; repeat for several. A wrong name lists all."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Data and victims; the verdicts are the same.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Attack the aggregation modes of this installation, and say for each attack what came of it, as a number.

    Every attack runs against the real software with an honest control beside it. "succeeded" on masked or encrypted is
    a limit that SECURITY.md names; on plain the aggregator reads every update. All of it takes two minutes, a third of
    that for each mode. --only and --json show every figure and reason. Exit code 0: every verdict is the one that this
    version claims. 1: at least one is not. 2: an unknown name or mode.

    Example: secfed audit attack --mode masked --only both-lists --only key-substitution
    """
    import time

    from secfed.audit.attack_page import print_attacks, print_details
    from secfed.audit.expected import deviation
    from secfed.audit.rows import MODES
    from secfed.audit.suite import run_suite, selected
    from secfed.display import counting_bar

    modes = tuple(known for known in MODES if mode in (known, "all"))
    if not modes:
        raise ConfigError(f"--mode = '{mode}': known modes are {', '.join(MODES)} and all")
    started = time.perf_counter()
    attacks = selected(only or ())
    with counting_bar("Attacking", total=len(attacks) * len(modes), quiet=as_json) as advance:
        rows = run_suite(modes=modes, only=only or (), seed=seed, on_row=lambda _: advance())
    deviations = [sentence for row in rows if (sentence := deviation(row)) is not None]
    seconds = time.perf_counter() - started
    if as_json:
        print_json(
            {"seed": seed, "seconds": seconds, "rows": [row.as_dict() for row in rows], "deviations": deviations}
        )
    else:
        print_attacks(rows, attacks, deviations, Console(), seconds=seconds)
        if only:
            print_details(rows, Console())
    if deviations:
        raise typer.Exit(1)


@audit_app.command("canaries")
def audit_canaries(
    canaries: Annotated[
        int, typer.Option("--canaries", metavar="M", help="Made-up patients, each in by a coin; more measure finer.")
    ] = 2000,
    rounds: Annotated[int, typer.Option("--rounds", metavar="T", help="Rounds of each run; an even number.")] = 4,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Coins, places and simulated noise.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Measure what runs under differential privacy give away about a patient, beside what their ledgers say.

    A canary is a made-up patient whose gradient is one large entry at a place of its own in the sum. Real runs, with
    the real apps, sampling, clip, noise, masks or encryption and ledger, are trained on them, in all ways in which
    updates travel. Each canary took part or not by a coin, and an attacker who knows everything but the coins scores
    them by what stands at their places in the sums. The distance between the scores of those in and those out must be
    what the ledger's noise allows: sqrt(rounds) / noise without sampling. More than that is noise that is missing, a
    clip that was forgotten, slices that were taken for patients. Less is a canary that did not arrive.

    Beside it stand the share of members that the attacker finds at 5 % false alarms with the accountant's cap, and a
    lower bound on epsilon from how many coins are guessed (Steinke and others, 2023). It takes half a minute on one
    core. Exit code 0: every run agrees with its ledger. 1: at least one does not. 2: numbers that measure nothing.

    Example: secfed audit canaries --canaries 3000 --rounds 8 --seed 1
    """
    import time

    from secfed.audit import canaries as audit
    from secfed.audit.leak_page import print_canaries
    from secfed.display import counting_bar

    started = time.perf_counter()
    with counting_bar("Training on canaries", total=len(audit.SETTINGS), quiet=as_json) as advance:
        rows = audit.audit_canaries(canaries=canaries, rounds=rounds, seed=seed, on_row=lambda _: advance())
    seconds = time.perf_counter() - started
    if as_json:
        print_json(
            {
                "command": f"secfed audit canaries --canaries {canaries} --rounds {rounds} --seed {seed}",
                "agrees": audit.agree(rows),
                "seconds": seconds,
                "rows": [row.as_dict() for row in rows],
            }
        )
    else:
        print_canaries(rows, Console(), seconds=seconds)
    if not audit.agree(rows):
        raise typer.Exit(1)


@audit_app.command("membership")
def audit_membership(
    patients: Annotated[
        int, typer.Option("--patients", metavar="N", help="Size of the pool; each model has half.")
    ] = 32,
    models: Annotated[int, typer.Option("--models", metavar="K", help="Models of each kind; an even number.")] = 12,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Patients, halves and simulated noise.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Tell from final models who was trained on, without and with differential privacy, beside what epsilon allows.

    Small federations of four sites are trained on random halves of a pool of phantom patients: without differential
    privacy, with distributed noise next to none, and with epsilon 8. Each model is attacked with the help of the
    others (LiRA). The page shows the AUC and the share of members found at 1 % and 5 % false alarms, with 95 %
    intervals, and the accountant's caps. It takes two to three minutes.

    Exit code 0: without differential privacy the attack works, and no training gives away more than its account
    allows. 1: otherwise. 2: numbers that leave nothing to attack.

    Example: secfed audit membership --models 16 --seed 1
    """
    import time

    from secfed.audit import shadow_models as audit
    from secfed.audit.leak_page import print_membership
    from secfed.display import counting_bar

    started = time.perf_counter()
    with counting_bar("Training models", total=models * len(audit.TRAININGS), quiet=as_json) as advance:
        rows = audit.audit_membership(patients=patients, models=models, seed=seed, on_model=advance)
    seconds = time.perf_counter() - started
    if as_json:
        print_json(
            {
                "command": f"secfed audit membership --patients {patients} --models {models} --seed {seed}",
                "as_expected": audit.as_expected(rows),
                "seconds": seconds,
                "rows": [row.as_dict() for row in rows],
            }
        )
    else:
        print_membership(rows, Console(), seconds=seconds)
    if not audit.as_expected(rows):
        raise typer.Exit(1)


@privacy_app.command("account")
def privacy_account(
    sampling_prob: Annotated[
        float | None, typer.Option("--sampling-prob", metavar="Q", help="Chance of a patient to be in a step.")
    ] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option("--noise-multiplier", metavar="S", help="Noise on the sum of a step, in clip norms.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="T", help="Number of steps like this.")] = None,
    delta: DeltaOption = None,
    patients: PatientsOption = None,
    segment: Annotated[
        list[str] | None,
        typer.Option("--segment", metavar="Q,S,T", help="A further stretch of steps; repeat for several."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what noisy training steps cost every patient, and what that allows an attacker.

    The unit is the patient with all scans and slices; the relation is zeroing that patient's contribution out. Nothing
    is read and nothing is trained. In JSON an infinite epsilon (a step without noise) is null.

    Example: secfed privacy account --sampling-prob 0.04 --noise-multiplier 1.5 --steps 2250 --delta 1e-5
    """
    from secfed.privacy_command import account_plan, as_dict, print_spend

    found = account_plan(
        sampling_prob=sampling_prob,
        noise_multiplier=noise_multiplier,
        steps=steps,
        more=segment or (),
        delta=delta,
        patients=patients,
    )
    if as_json:
        print_json(as_dict(found, noise_multiplier=noise_multiplier))
    else:
        print_spend(found, Console(), noise_multiplier=None)


@privacy_app.command("calibrate")
def privacy_calibrate(
    epsilon: Annotated[float, typer.Option("--epsilon", metavar="E", help="The budget for the whole plan.")],
    sampling_prob: Annotated[
        float, typer.Option("--sampling-prob", metavar="Q", help="Chance of a patient to be in a step.")
    ],
    steps: Annotated[int, typer.Option("--steps", metavar="T", help="Number of steps.")],
    delta: DeltaOption = None,
    patients: PatientsOption = None,
    before: Annotated[
        list[str] | None,
        typer.Option("--before", metavar="Q,S,T", help="Steps that the same patients were in already; repeatable."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the least noise with which a plan stays within a budget.

    The answer is never too little, and at most 0.1 % more than needed. What was spent before on the same patients
    counts: name it with --before.

    Example: secfed privacy calibrate --epsilon 8 --sampling-prob 0.2 --steps 150 --patients 40
    """
    from secfed.privacy_command import as_dict, calibrate_plan, print_spend

    noise, found = calibrate_plan(
        epsilon=epsilon, sampling_prob=sampling_prob, steps=steps, before=before or (), delta=delta, patients=patients
    )
    if as_json:
        print_json(as_dict(found, noise_multiplier=noise))
    else:
        print_spend(found, Console(), noise_multiplier=noise)


def _governance(
    run_folders: list[Path], *, out: Path | None, site: Path | None, attacks: Path | None, anchor: Path | None
) -> Path:
    from secfed.governance.facts import gather
    from secfed.governance.page import build_governance_page

    if len(run_folders) != 1:
        raise ConfigError(f"--governance is about one run, got {len(run_folders)}")
    with Console(stderr=True).status("Verifying"):
        facts = gather(run_folders[0], site=site, attacks=attacks, anchor=anchor)
    return build_governance_page(facts, out=out if out is not None else run_folders[0] / "governance.html")


def _run(
    config: Any,
    *,
    out: Path,
    cache: Path | None = None,
    engine: str,
    resume: bool,
    cores: int | None,
    computing: Computing = ONE_DEVICE,
    as_json: bool,
) -> None:
    from secfed.display import RunDisplay, summary
    from secfed.experiment.run import run_experiment
    from secfed.report import build_report

    if engine not in ("in_process", "ray"):
        raise ConfigError(f"--engine = '{engine}': known engines are in_process and ray")
    try:
        with RunDisplay(config, quiet=as_json) as display:
            record = run_experiment(
                config,
                out=out,
                cache=cache,
                engine="ray" if engine == "ray" else "in_process",
                resume=resume,
                cores=cores,
                computing=computing,
                progress=display.progress,
            )
            display.status("Writing the report")
            page = build_report([out], out=out / "report.html")
    except KeyboardInterrupt:
        # Caught here, because Typer turns one that reaches it into a silent exit.
        errors.print(
            f"stopped; `--out {out} --resume` goes on from the last finished round", markup=False, soft_wrap=True
        )
        raise typer.Exit(130) from None
    if as_json:
        print_json({"run": str(out), "report": str(page), "summary": summary(record).as_dict()})
    else:
        summary(record).print(Console(), run_folder=out, report=page)


def main() -> None:
    """Entry point: known errors become one clear message and their exit code."""
    try:
        app()
    except SecfedError as error:
        errors.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True, style="red")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
