"""What the page of a study adds to the style sheet of the runs: dense tables, figures of its own, verdicts."""

from secfed.report.stylesheet import STYLESHEET

_RULES = """
main { max-width: 76rem; }
h2, h3, p, li, dt, dd, figcaption, .unit, .mini small { overflow-wrap: anywhere; }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: 3px; }
h2 { padding-top: .6rem; border-top: 3px solid var(--ink); font-size: 1.45rem; }
section { scroll-margin-top: 1rem; }
tr[id] { scroll-margin-top: 4rem; }
tr:target > * { background: var(--accent-soft); }
.question { font-size: 1.1rem; color: var(--ink-soft); font-style: italic; }
.answers { margin: 0 0 1.6rem; padding: .9rem 1.1rem .9rem 2rem; background: var(--accent-soft); border-radius: .4rem; }
.answers li { max-width: 56rem; }
.answers li:last-child { margin-bottom: 0; }
.banners { margin: 1.4rem 0; display: grid; gap: .6rem; }
.banners p { margin: 0; max-width: none; padding: .7rem 1rem; border-left: 4px solid var(--warn);
  background: var(--warn-soft); border-radius: 0 .4rem .4rem 0; overflow-wrap: anywhere; }
.key { font-size: .88rem; font-weight: 500; max-width: 60rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin: 1.6rem 0 0; padding: .8rem 0; list-style: none;
  border-top: 1px solid var(--rule); border-bottom: 1px solid var(--rule); font-size: .9rem; }
nav li { margin: 0; }
.verdicts { grid-template-columns: repeat(3, 1fr); max-width: 40rem; }
.card.met .big { color: var(--met); }
.card.missed .big { color: var(--warn); }
.card.open .big { color: var(--ink-soft); }
.verdict { display: inline-block; padding: .05rem .6rem; border-radius: 1rem; border: 1.5px solid currentColor;
  font-weight: 650; font-size: .88rem; white-space: nowrap; }
.verdict.met { color: var(--met); }
.verdict.missed { color: var(--warn); background: var(--warn-soft); }
.verdict.open { color: var(--ink-soft); border-style: dashed; }

figure { margin: 1.4rem 0 1.8rem; }
figcaption { font-size: 1rem; }
figcaption small { max-width: 56rem; margin-top: .15rem; line-height: 1.45; }
figure svg text { fill: var(--ink-soft); font-size: 12.5px; font-variant-numeric: tabular-nums; }
.grid { stroke: var(--rule); stroke-width: 1; vector-effect: non-scaling-stroke; }
.marker path { stroke-width: 2; stroke-linejoin: round; }
.interval line { stroke-width: 2; }
.curve { stroke-width: 2.2; stroke-linecap: round; }
.learning { fill: none; stroke-width: 2; stroke-linecap: round; stroke-linejoin: round;
  vector-effect: non-scaling-stroke; }
.rule { stroke-width: 1.6; stroke-dasharray: 2 4; stroke-linecap: round; }
.rule.ct { stroke: var(--line-0); }
.rule.mr { stroke: var(--line-2); }
.rule.strong { stroke: var(--ink-soft); stroke-dasharray: none; }
.swatch { overflow: visible; flex: none; }
.legend { margin: .2rem 0 .6rem; }
.legend li span { min-width: 0; }
.legend li { margin: 0; max-width: none; line-height: 1.35; }
.unit { text-align: center; font-size: .82rem; color: var(--ink-soft); }
.dotplot { display: grid; grid-template-columns: minmax(9rem, 17rem) 1fr; max-width: 62rem; }
.dotname { display: flex; flex-direction: column; justify-content: center; padding-right: 1rem; text-align: right;
  font-size: .93rem; line-height: 1.25; overflow-wrap: anywhere; border-bottom: 1px solid transparent; }
.dotname small { color: var(--ink-soft); font-size: .78rem; }
.dotplot svg { display: block; min-width: 0; }
.dotplot .dotrow { border-bottom: 1px solid color-mix(in srgb, var(--rule) 55%, transparent); }
.plotbox { display: grid; grid-template-columns: 40px 1fr; }
.plotbox svg { display: block; min-width: 0; overflow: visible; }
.ytitle { text-align: left; }
.withlegend { display: grid; grid-template-columns: minmax(0, 1fr) 19rem; gap: 1.5rem; align-items: start; }
.withlegend .legend { flex-direction: column; flex-wrap: nowrap; margin-top: 1.6rem; gap: .6rem; }
.withlegend .legend li { align-items: flex-start; }
.minis { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 10.5rem), 1fr)); gap: 1rem 1.4rem; }
.mini b { display: block; font-size: .84rem; font-weight: 600; line-height: 1.25; min-height: 2.5em; display: flex;
  align-items: flex-end; overflow-wrap: anywhere; }
.mini svg { display: block; margin: .25rem 0; }
.mini small { display: block; color: var(--ink-soft); font-size: .78rem; line-height: 1.35; }

.scores td { vertical-align: top; }
.scores td.words, .scores th.words { white-space: normal; text-align: left; min-width: 9rem; max-width: 22rem;
  overflow-wrap: anywhere; }
.scores small.ci { display: block; margin: 0; white-space: nowrap; }
.scores small.remark, .scores small.cells { display: block; margin: .1rem 0 0; line-height: 1.35; }
.scores small.remark { max-width: 22rem; }
.methods th[scope="row"] { min-width: 12rem; max-width: 17rem; }
.methods .name { overflow-wrap: anywhere; }
.methods tr.reference > * { background: var(--surface); }
.organs th[scope="row"] { min-width: 9rem; }
.organs th, .organs td { padding-left: .5rem; padding-right: .5rem; }
.organs thead th { max-width: 6.2rem; }
.meancell { font-weight: 600; border-right: 2px solid var(--rule); }
.meancell small { font-weight: 400; }
.soft { color: var(--ink-soft); text-align: center; }
.foot { width: auto; padding-left: .1em; color: var(--warn); }
.footnotes { margin: -.2rem 0 .8rem; padding: 0; list-style: none; font-size: .88rem; color: var(--ink-soft); }
.footnotes sup { width: auto; padding-right: .25em; }
.footnotes li { max-width: 56rem; margin-bottom: .2rem; overflow-wrap: anywhere; }
.hashes { font-size: .93rem; }
.hashes li { max-width: none; overflow-wrap: anywhere; }
table.cells { font-size: .82rem; }
table.cells th, table.cells td { padding: .28rem .5rem; }
table.cells .words { min-width: 4.5rem; }
table.cells td.words:nth-child(4) { min-width: 16rem; }
table.cells td.words:nth-child(5) { min-width: 11rem; }
tr.hole > * { color: var(--warn); }
.method { margin: 1rem 0 .5rem; }
.overlays.triple { grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 1rem; }
.overlays figure { margin: 0; }
.statements dd { max-width: 60rem; }
caption span { max-width: min(56rem, 100vw - 2.5rem); }

@media (max-width: 56rem) {
  .withlegend { grid-template-columns: minmax(0, 1fr); gap: .6rem; }
  .withlegend .legend { margin-top: 0; }
}
@media (max-width: 40rem) {
  .dotplot { grid-template-columns: minmax(0, 1fr); }
  .dotname { flex-direction: row; justify-content: flex-start; align-items: baseline; gap: .5rem; text-align: left;
    padding: .3rem 0 0; }
  .axisname { display: none; }
  .verdicts { gap: .5rem; }
  .verdicts .card { padding: .7rem .6rem; }
  .verdicts .label { font-size: .82rem; }
  .overlays.triple { grid-template-columns: minmax(0, 1fr); }
  .methods th[scope="row"] { min-width: 8.8rem; max-width: 10rem; }
  .scores td.words, .scores th.words { min-width: 13rem; }
  .claims th.words, .claims td.words { min-width: 9rem; }
}
@page { size: A4 landscape; margin: 12mm; }
@media print {
  .mini, .card, figure, .banners p { break-inside: avoid; }
  nav { display: none; }
  .organs, .methods { font-size: 7.5pt; }
  table.cells { font-size: 6.5pt; }
  table.cells td.words:nth-child(n) { min-width: 0; }
  .overlays.triple { grid-template-columns: repeat(3, 1fr); }
}
"""

STUDY_STYLESHEET = f"""{STYLESHEET}
:root {{ --met: #0d6b4f; }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ --met: #4fcf9f; }} }}
{_RULES}"""
