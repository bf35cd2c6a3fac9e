"""The style of a plan's page. Knows: colours, both themes, print. Does not know: what stands on the page."""

STYLE = """
:root{--ink:#1c2330;--dim:#5c6675;--paper:#fff;--rule:#e2e6ec;--soft:#f5f7fa;
--unsplit:#b45f06;--split:#1f6feb;--hybrid:#8250df;--undecided:#6b7280;
--p1:#d1495b;--p2:#edae49;--p3:#3a7ca5;--heat:200,60,50}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ef;--dim:#9aa4b2;--paper:#12161d;--rule:#2a313c;
--soft:#1a202a;--unsplit:#e59a4f;--split:#6ea8fe;--hybrid:#b69cff;--heat:230,90,80}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.55 system-ui,sans-serif}
main{max-width:1120px;margin:0 auto;padding:2.5rem 1.5rem 4rem}
.kicker{margin:0;color:var(--dim);letter-spacing:.04em}
h1{font-size:2.6rem;line-height:1.1;margin:.2rem 0 .8rem}
h2{font-size:1.25rem;margin:2.6rem 0 .6rem;padding-top:1rem;border-top:1px solid var(--rule)}
h3{font-size:1rem;margin:1.6rem 0 .4rem}
.lead{font-size:1.15rem;max-width:62rem}
.asked,.gains{color:var(--dim);overflow-wrap:anywhere}
.unsplit{color:var(--unsplit)}.split{color:var(--split)}.hybrid{color:var(--hybrid)}
.undecided{color:var(--undecided)}
em{font-style:normal;font-size:.78rem;border:1px solid var(--rule);border-radius:9px;padding:0
.5em;color:var(--dim)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.4rem .7rem;border-bottom:1px solid var(--rule);text-align:right;vertical-align:top}
th{font-weight:600;color:var(--dim);font-size:.85rem;vertical-align:bottom}
th:first-child,td:first-child{text-align:left;min-width:16rem}
th:last-child,td:last-child{white-space:nowrap}
small{color:var(--dim);display:block;font-size:.8rem;white-space:nowrap}
.heat{background:rgba(var(--heat),calc(var(--lost)*.75))}
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:1.2rem}
figure{margin:0}figcaption{font-weight:600;margin:.4rem 0}
svg{width:100%;height:auto;background:var(--soft);border-radius:6px}
svg text{fill:var(--ink);font:12px system-ui,sans-serif}svg .tick{fill:var(--dim)}svg .row{font-size:13px}
svg .grid{stroke:var(--rule)}svg .mark{stroke:var(--dim);stroke-dasharray:4 4}
svg .unsplit{fill:var(--unsplit);stroke:var(--unsplit)}svg .split{fill:var(--split);stroke:var(--split)}
svg .hybrid{fill:var(--hybrid);stroke:var(--hybrid)}svg .line{fill:none;stroke-width:2}
svg .p1{fill:var(--p1)}svg .p2{fill:var(--p2)}svg .p3{fill:var(--p3)}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;font-size:.82rem;color:var(--dim);margin:.3rem 0 .8rem}
.legend i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}
i.unsplit{background:var(--unsplit)}i.split{background:var(--split)}i.hybrid{background:var(--hybrid)}
i.p1{background:var(--p1)}i.p2{background:var(--p2)}i.p3{background:var(--p3)}
.none{color:var(--dim)}li{margin:.25rem 0;overflow-wrap:anywhere}
@media print{body{font-size:11px}h2{break-after:avoid}figure,tr{break-inside:avoid}}
"""
