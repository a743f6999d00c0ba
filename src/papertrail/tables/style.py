"""How a table page looks: booktabs rules on paper white or night grey, on a phone or a wall."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfb; --ink: #1d2127; --soft: #5c6470; --rule: #1d2127; --hair: #dfe1e4;
  --link: #1f5fa8; --tint: #f2f4f6; --track: #dde1e6; --range: #8db1da; --dot: #1f5fa8;
  --warn: #8a4b08; --warn-tint: #fbf0df; --gap: #eceef0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16181c; --ink: #e7e9ec; --soft: #9aa3ae; --rule: #c9ced5; --hair: #2e3238;
    --link: #8fbcf0; --tint: #1e2126; --track: #363c44; --range: #4f7db3; --dot: #b9d8fa;
    --warn: #f0b772; --warn-tint: #35281a; --gap: #23272d;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums lining-nums;
}
main { width: fit-content; max-width: 100%; margin: 0 auto; padding: 3rem 2rem 4rem; }
table { border-collapse: collapse; border-bottom: 2px solid var(--rule); }
caption { text-align: left; padding-bottom: 1.1rem; }
caption .title { font-size: 1.35rem; font-weight: 650; letter-spacing: -.01em; }
caption p { margin: .3rem 0 0; max-width: 75ch; color: var(--soft); }
thead th {
  position: sticky; top: 0; z-index: 2; background: var(--paper);
  padding: .6rem .9rem; vertical-align: bottom; text-align: right;
  font-size: .85rem; font-weight: 600; line-height: 1.3; max-width: 9.5rem;
  box-shadow: inset 0 2px var(--rule), inset 0 -1px var(--rule);
}
th[title] { cursor: help; }
th.label, td.label { text-align: left; }
.arrow { color: var(--soft); font-weight: 400; }
tbody th, td {
  padding: .65rem .9rem; text-align: right; vertical-align: top; font-weight: 400;
  border-top: 1px solid var(--hair); white-space: nowrap;
}
tbody tr:first-child > * { border-top: 0; }
tbody th { font-weight: 600; white-space: normal; min-width: 7rem; }
tbody tr:hover > * { background: var(--tint); }
a { color: inherit; text-decoration: underline; text-decoration-color: var(--track);
    text-decoration-thickness: 1.5px; text-underline-offset: .22em; }
a:hover, summary:hover { color: var(--link); text-decoration-color: currentColor; }
a:focus-visible, summary:focus-visible, .scroll:focus-visible {
  outline: 2px solid var(--link); outline-offset: 2px; border-radius: 3px;
}
.value { position: relative; display: inline-block; }
strong { font-weight: 750; }
.spread { color: var(--soft); font-weight: 400; }
.ci, .n, .run { display: block; color: var(--soft); font-size: .8rem; line-height: 1.4; }
.run { font-size: .7rem; max-width: 8ch; margin-left: auto; overflow: hidden;
       text-overflow: ellipsis; }
.run:hover { max-width: none; }
thead .n { font-weight: 400; font-size: .78rem; }
/* A footnote mark hangs in the margin, so digits stay aligned. */
td sup { position: absolute; left: 100%; top: -.15em; padding-left: .1em; line-height: 1; }
sup, sup a { font-size: .72rem; color: var(--soft); text-decoration: none; }
.bar { display: block; position: relative; height: 8px; width: 6rem;
       margin: .3rem 0 0 auto; }
.bar::before { content: ""; position: absolute; inset: 3.5px 0; background: var(--track); }
.bar i { position: absolute; }
.range { top: 2px; height: 4px; min-width: 2px; border-radius: 2px; background: var(--range); }
.dot { top: 0; width: 3px; height: 8px; margin-left: -1.5px; border-radius: 1px;
       background: var(--dot); }
.zero { top: -1px; width: 1px; height: 10px; background: var(--soft); }
.missing .value, .refused .value {
  padding: 0 .5em; border-radius: 4px; font-size: .85rem; line-height: 1.7;
}
.missing .value { color: var(--soft); background: repeating-linear-gradient(
  135deg, var(--gap) 0 4px, transparent 4px 8px); }
.refused .value { color: var(--warn); background: var(--warn-tint); }
details summary { cursor: pointer; list-style: none; }
details summary::-webkit-details-marker { display: none; }
td details, th details { display: inline-block; }
td details summary, th details summary {
  text-decoration: underline dotted; text-decoration-color: var(--soft);
  text-underline-offset: .22em;
}
td ol code { display: inline-block; max-width: 10ch; overflow: hidden; text-overflow: ellipsis;
             vertical-align: bottom; }
td ol, th ol { margin: .3rem 0; padding: 0; list-style: none; font-size: .7rem; }
code { font: .92em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.notes { margin: .9rem 0 0; padding: 0; list-style: none; max-width: 80ch;
         font-size: .88rem; color: var(--soft); }
.notes li { margin: .15rem 0; }
.notes li:target { background: var(--warn-tint); color: var(--ink); }
.about { margin-top: .7rem; max-width: 80ch; font-size: .88rem; color: var(--soft); }
.about summary::before { content: "▸ "; }
.about[open] summary::before { content: "▾ "; }
.about dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem;
            margin: .5rem 0; }
.about dd { margin: 0; overflow-wrap: anywhere; color: var(--ink); }
@media (max-width: 1100px) {
  main { padding: 1.2rem 0 2rem; width: 100%; }
  .scroll { overflow: auto; max-height: 88vh; padding: 0 1rem; }
  caption > .title, caption > p {
    position: sticky; left: 0; display: block; max-width: calc(100vw - 2rem);
  }
  .notes, .about { padding: 0 1rem; }
  thead th:first-child, tbody th { position: sticky; left: -1rem; background: var(--paper); }
  thead th:first-child { z-index: 3; }
  tbody th { z-index: 1; min-width: 6rem; box-shadow: inset -1px 0 var(--hair); }
  thead th, tbody th, td { padding-left: .6rem; padding-right: .8rem; }
}
@media print {
  .scroll { overflow: visible; max-height: none; }
  thead th { position: static; }
}
"""
