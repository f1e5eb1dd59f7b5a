"""How the page looks: light and dark, wide and narrow, on screen and on paper."""

STYLE = """
:root { color-scheme: light dark; --paper: #fcfcfa; --card: #fff; --ink: #1c1e21; --faint: #5a6069;
  --line: #dcdfe3; --strong: #9aa1aa; --link: #0b5c94; --amber: #8a5200; --amber-soft: #fdf3e1;
  --violet: #7a3a8c; --violet-soft: #f8eefa; --green: #14663f; --grey-soft: #eef0f2; }
@media (prefers-color-scheme: dark) { :root { --paper: #14161a; --card: #1b1e23; --ink: #e6e8eb;
  --faint: #a7aeb8; --line: #343a42; --strong: #6b737d; --link: #7dbdf0; --amber: #f0b45b;
  --amber-soft: #2a2317; --violet: #d9a3e8; --violet-soft: #281f2c; --green: #7fd3a6;
  --grey-soft: #262a30; } }
* { box-sizing: border-box; }
html { scroll-padding-top: 3.5rem; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1.0625rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
header, main, footer { max-width: 76rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 3rem; }
h1, h2, h3, h4 { font-family: Charter, "Bitstream Charter", "Iowan Old Style", Georgia, serif;
  line-height: 1.25; text-wrap: balance; overflow-wrap: break-word; }
h1 { font-size: clamp(1.8rem, 5vw, 2.6rem); margin: 0 0 .5rem; max-width: 24em; }
h2 { font-size: 1.7rem; margin: 4rem 0 1rem; padding-top: 1rem; border-top: 2px solid var(--ink); }
h3 { font-size: 1.3rem; margin: 2.2rem 0 .6rem; }
h4 { font-size: 1.08rem; margin: 0 0 .6rem; }
p, ul { margin: 0 0 .9rem; max-width: 72ch; overflow-wrap: break-word; }
a { color: var(--link); text-decoration-thickness: 1px; text-underline-offset: .15em; }
a:focus-visible, .scroll:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
code { font: .88em/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  overflow-wrap: anywhere; }
sub { font-size: .72em; line-height: 0; }
.faint, figcaption { color: var(--faint); font-size: .92rem; line-height: 1.5; }
.lead { font-size: 1.15rem; }
.verdict { font-size: 1.1rem; border-left: 4px solid var(--ink); padding: .2rem 0 .2rem 1rem; }
nav { position: sticky; top: 0; z-index: 1; background: var(--paper);
  border-bottom: 1px solid var(--line); margin-top: 1.5rem; }
nav ul { list-style: none; display: flex; gap: 0 1.4rem; max-width: 76rem; margin: 0 auto;
  padding: .6rem 1.25rem; overflow-x: auto; white-space: nowrap; font-size: .95rem; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
.scroll { overflow-x: auto; margin: 0 0 .9rem; }
table { border-collapse: collapse; font-size: .92rem; line-height: 1.4;
  font-variant-numeric: tabular-nums; min-width: min(100%, 32rem); }
thead { border-top: 1.5px solid var(--ink); border-bottom: 1px solid var(--strong); }
tbody { border-bottom: 1.5px solid var(--ink); }
th, td { padding: .38rem .9rem .38rem 0; text-align: left; vertical-align: baseline; }
thead th { font-weight: 600; vertical-align: bottom; }
thead th[colspan] { text-align: center; border-bottom: 1px solid var(--line); }
tbody th { font-weight: 500; white-space: nowrap; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tbody tr.apart > * { border-top: 1px solid var(--strong); }
tbody tr:target { background: var(--amber-soft); }
td { white-space: nowrap; }
td.long { white-space: normal; min-width: 15rem; }
.number { text-align: right; }
#records table { font-size: .86rem; }
td.none { color: var(--faint); font-style: italic; }
.seal { overflow-wrap: normal; }
main > section:first-child h2 { border: 0; margin-top: 1.5rem; padding: 0; }
.box { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: 1.1rem 1.25rem .4rem; margin: 1.2rem 0; }
.box.reduced { border-left: 5px solid var(--amber); }
.box.synthetic { border: 2px dashed var(--violet); background: var(--violet-soft); }
.badge { display: inline-block; margin: 0 0 .6rem; padding: .05rem .6rem; border-radius: 1rem;
  font-size: .78rem; font-weight: 650; letter-spacing: .05em; text-transform: uppercase;
  color: var(--amber); background: var(--amber-soft); border: 1px solid currentColor; }
.box.synthetic .badge, .badge.synthetic { color: var(--violet); background: var(--violet-soft); }
.warning { font-weight: 600; color: var(--amber); }
.box.synthetic .warning { color: var(--violet); }
.pill { display: inline-block; padding: 0 .55rem; border-radius: 1rem; font-size: .82rem;
  font-weight: 650; white-space: nowrap; background: var(--grey-soft); }
.pill.run, .pill.shown, .pill.counted { color: var(--green); }
.pill.partly-run { color: var(--amber); }
figure { margin: 2rem 0; }
figcaption { margin-top: .8rem; }
figcaption p { margin-bottom: .5rem; }
figcaption p:first-child { color: var(--ink); font-size: 1rem; }
.plate { background: #fff; color: #1c1e21; border: 1px solid var(--line); border-radius: .5rem;
  padding: .9rem; }
.plate .scroll { margin: 0; }
.plate img { display: block; width: 100%; height: auto; }
.plate .badge { color: #8a5200; background: #fdf3e1; }
.plate .badge.synthetic { color: #7a3a8c; background: #f8eefa; }
.plate.absent { background: none; color: var(--faint); border-style: dashed; }
.plate.absent p { margin: 0; overflow-wrap: anywhere; }
figure.wide .plate { max-width: 62rem; }
figure.wide img { min-width: 40rem; }
figure.column .plate { max-width: 30rem; }
@media (min-width: 56rem) {
  figure.column { display: grid; grid-template-columns: 30rem minmax(0, 1fr); gap: 0 2rem;
    align-items: start; }
  figure.column figcaption { margin-top: 0; }
}
footer { margin-top: 4rem; padding-top: 1rem; padding-bottom: 3rem; font-size: .92rem;
  color: var(--faint); }
@media (max-width: 40rem) { .box { padding: .9rem .9rem .2rem; } header { padding-top: 1.6rem; }
  body { font-size: 1rem; } .plate { padding: .6rem; }
  tbody th { white-space: normal; min-width: 7.5rem; }
  table.stacked { min-width: 0; width: 100%; }
  .stacked thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px;
    overflow: hidden; }
  .stacked tr, .stacked th, .stacked td { display: block; min-width: 0; white-space: normal; }
  .stacked tr { padding: .5rem 0; border-top: 1px solid var(--line); }
  .stacked tbody { border-top: 1.5px solid var(--ink); }
  .stacked tr > * { padding: .1rem 0; border: 0 !important; }
  .stacked td.none { display: none; }
  .stacked td::before { content: attr(data-label) ": "; color: var(--faint); } }
@media print {
  :root { --paper: #fff; --card: #fff; --ink: #000; --faint: #444; --line: #ccc; --strong: #888;
    --link: #000; --amber: #6b4000; --amber-soft: #fff; --violet: #5c2a6a; --violet-soft: #fff;
    --green: #000; --grey-soft: #fff; color-scheme: light; }
  @page { margin: 1.6cm; }
  body, figcaption p:first-child { font-size: 9.5pt; }
  .lead, .verdict { font-size: 10.5pt; }
  .faint, figcaption, footer, .pill, .badge { font-size: 8.5pt; }
  .badge, .pill { padding: 0 .5em; }
  h1 { font-size: 20pt; }
  h2 { font-size: 15pt; margin-top: 2rem; }
  h3 { font-size: 12pt; }
  h4 { font-size: 10pt; }
  header, main, footer { max-width: none; padding: 0; }
  nav { display: none; }
  h2, h3, h4 { break-after: avoid; }
  .scroll { overflow: visible; }
  table, #records table, td .pill { font-size: 6.8pt; }
  table { min-width: 0; }
  th, td { padding-right: .5em; }
  tbody th, td { white-space: normal !important; min-width: 0 !important; overflow-wrap: anywhere; }
  tr, .plate { break-inside: avoid; }
  figure.wide img { min-width: 0; max-height: 22cm; width: auto; max-width: 100%; margin: 0 auto; }
  figure.column { display: block; }
  figure.column .plate { max-width: 10cm; }
  .pill { border: 1px solid #888; }
}
"""
"""Style sheet of the page; it names no resource, not even a font to be fetched."""
