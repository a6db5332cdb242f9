"""The page's own style sheet: light and dark, narrow and wide, screen and paper; no font or image from elsewhere."""

_LIGHT = """
  --paper: #ffffff; --surface: #f5f7f8; --ink: #16202a; --ink-soft: #4c5a67; --rule: #d5dce1;
  --accent: #0b6373; --accent-soft: #e3f1f3; --warn: #9c2f00; --warn-soft: #fdeee6; --bar: #5b7083;
  --line-0: #0069a8; --line-1: #3f4a54; --line-2: #c2410c; --line-3: #6d3fb5; --line-4: #0d7f5c;
  --line-5: #b3246b; --line-6: #80610a; --line-7: #2f6fdb; --line-8: #6b7280;
"""

_DARK = """
  --paper: #12181e; --surface: #1a222a; --ink: #e8edf1; --ink-soft: #a9b5bf; --rule: #35414c;
  --accent: #63c6d6; --accent-soft: #16343a; --warn: #ffa36b; --warn-soft: #3a2114; --bar: #8fa3b5;
  --line-0: #58b4f0; --line-1: #ccd5dc; --line-2: #ff9357; --line-3: #b79bf2; --line-4: #4fcf9f;
  --line-5: #f48ac0; --line-6: #dcb93f; --line-7: #86abff; --line-8: #9aa6b2;
"""

_RULES = """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
header { display: flex; flex-direction: column-reverse; }
h1 { margin: 0 0 .6rem; font-size: 2rem; line-height: 1.2; letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { margin: 0 0 .9rem; font-size: 1.3rem; line-height: 1.3; letter-spacing: -.01em; }
h3 { margin: 1.8rem 0 .5rem; font-size: 1.05rem; }
p { margin: 0 0 .8rem; max-width: 46rem; }
section { margin-top: 3rem; }
article { margin-top: 4rem; padding-top: 2.5rem; border-top: 3px solid var(--rule); }
.kicker { margin: 0; color: var(--accent); font-size: .82rem; font-weight: 600; letter-spacing: .08em;
  text-transform: uppercase; }
.lead { font-size: 1.12rem; max-width: 48rem; }
.note, figcaption small, caption { color: var(--ink-soft); font-size: .88rem; }
.missing { padding: .7rem .9rem; border: 1px dashed var(--rule); border-radius: .4rem; color: var(--ink-soft);
  overflow-wrap: anywhere; }
.warning { color: var(--warn); font-weight: 600; }
strong.warning { display: block; max-width: 46rem; padding: .7rem .9rem; border-left: 4px solid var(--warn);
  background: var(--warn-soft); }

.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: 1rem; margin: 1.5rem 0 1rem; }
.card { padding: 1.1rem 1.2rem; border-radius: .6rem; background: var(--surface); border: 1px solid var(--rule); }
.card p { margin: 0; }
.card .big { font-size: 2.3rem; font-weight: 650; line-height: 1.15; letter-spacing: -.02em; color: var(--accent);
  font-variant-numeric: tabular-nums; }
.card .label { font-weight: 600; }
.card .detail, .card .warning { margin-top: .35rem; color: var(--ink-soft); font-size: .88rem; line-height: 1.45; }
.card .warning { color: var(--warn); }

.scroll { overflow-x: auto; margin-bottom: 1rem; }
.scroll:focus-visible, summary:focus-visible, pre:focus-visible { outline: 2px solid var(--accent);
  outline-offset: 3px; }
table { border-collapse: collapse; font-size: .93rem; font-variant-numeric: tabular-nums; }
caption { caption-side: top; padding-bottom: .7rem; text-align: left; }
caption span { display: block; position: sticky; left: 0; max-width: min(46rem, 100vw - 2.5rem); }
th, td { padding: .32rem .7rem; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: top; }
th { font-weight: 500; }
thead th { vertical-align: bottom; border-bottom: 2px solid var(--ink-soft); font-weight: 600; line-height: 1.3; }
tr > :first-child { position: sticky; left: 0; z-index: 1; background: var(--paper); text-align: left; }
.scores { min-width: 100%; }
.scores td { white-space: nowrap; }
.scores th[scope="row"] { min-width: 10.5rem; }
.scores small { display: inline-block; margin-left: .5rem; color: var(--ink-soft); font-size: .8em; font-weight: 400; }
.scores tr.group th { padding-top: 1.4rem; border-bottom: 1px solid var(--ink-soft); font-weight: 400;
  color: var(--ink-soft); }
.scores tr.group b { color: var(--ink); }
.scores span.group { position: sticky; left: .7rem; }
.scores tr.mean > *, .scores tr.relative > * { background: var(--accent-soft); }
.scores tr.mean > * { font-weight: 600; border-top: 1px solid var(--ink-soft); }
.scores tr.relative > * { font-size: .96em; }
.scores tbody tr:not(.group):hover > * { background: var(--surface); }
.scores th.run { text-align: left; border-bottom-width: 1px; padding-left: 1.4rem; }
.scores .edge, .scores th.run + th.run { border-left: 2px solid var(--rule); padding-left: 1rem; }
.best { font-weight: 700; text-decoration: underline; text-decoration-thickness: 2px; text-underline-offset: 3px;
  text-decoration-color: var(--accent); }
sup { display: inline-block; width: 0; line-height: 0; }
.pairs th { white-space: nowrap; color: var(--ink-soft); padding-left: 0; }
.pairs td { text-align: left; overflow-wrap: anywhere; }

code, pre { font-family: ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; font-size: .88em; }
pre { overflow-x: auto; padding: .8rem 1rem; border-radius: .4rem; background: var(--surface);
  border: 1px solid var(--rule); }
summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }

figure { margin: 0; min-width: 0; }
figcaption { margin-bottom: .4rem; font-size: .93rem; font-weight: 600; }
figcaption small { display: block; font-weight: 400; }
.legend { display: flex; flex-wrap: wrap; gap: .35rem 1.2rem; margin: 0 0 1rem; padding: 0; list-style: none;
  font-size: .9rem; }
.legend li { display: flex; align-items: center; gap: .45rem; }
.dot { width: .85rem; height: .85rem; border-radius: 50%; box-shadow: inset 0 0 0 1px rgb(0 0 0 / .35);
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 1.2rem;
  margin-bottom: 1.2rem; }
.plots.pair { grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.plot { min-height: 300px; }
.histogram { display: block; width: 100%; height: auto; }
.histogram text { fill: var(--ink-soft); font-size: 13px; }
.bars { fill: var(--bar); }
.bars.received { fill: var(--accent); }
.axis { stroke: var(--ink-soft); }
.even { stroke: var(--warn); stroke-width: 1.5; stroke-dasharray: 6 4; }

.overlays { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: 1.5rem;
  margin-bottom: 1rem; }
.overlays figcaption { font-weight: 400; color: var(--ink-soft); }
.overlays figcaption b { color: var(--ink); }
.overlays svg { display: block; width: 100%; height: auto; max-height: 34rem; border-radius: .4rem;
  background: #000; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.overlays path { vector-effect: non-scaling-stroke; stroke-width: 1.7; stroke-linejoin: round; }
.overlays .edge { stroke: rgb(0 0 0 / .4); stroke-width: 3.4; }
.overlays .prediction { stroke-dasharray: 5 5; }
.side { fill: #fff; stroke: #000; stroke-width: .06em; paint-order: stroke; font-weight: 700; }

.statements dt { font-weight: 600; margin-top: .9rem; }
.statements dd { margin: .1rem 0 0; max-width: 46rem; }
li { margin-bottom: .4rem; max-width: 46rem; }

@media (max-width: 40rem) {
  main { padding-top: 1.5rem; }
  h1 { font-size: 1.6rem; }
  .lead { font-size: 1.03rem; }
  section { margin-top: 2.3rem; }
  th, td { padding: .3rem .5rem; }
  .scores th[scope="row"] { min-width: 6.5rem; }
  .pairs th, .pairs td { display: block; position: static; padding: .15rem 0; border: 0; }
  .pairs td { padding-bottom: .5rem; }
}
@media print {
  main { max-width: none; padding: 0; }
  body { font-size: 10pt; }
  .scroll { overflow: visible; }
  tr > :first-child { position: static; }
  table { font-size: 8.5pt; }
  .overlays, .plots, .plots.pair { grid-template-columns: 1fr 1fr; }
  figure, .card, tr, dd { break-inside: avoid; }
  h2, h3, dt { break-after: avoid; }
}
"""

STYLESHEET = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
{_RULES}"""
