//! The look that all pages share: one style sheet inside the page, nothing loaded, no script.

use maud::{DOCTYPE, Markup, PreEscaped, html};

const SHEET: &str = "
:root{--ink:#1c2530;--soft:#5b6875;--line:#d5dce3;--paper:#fff;--ground:#f3f5f7;--bar:#2f6690;--bar2:#8aa9bf;--warn:#8a4b00;--warnbg:#fff4e0;--bad:#8c1c13;--badbg:#fdeceb;--good:#1d5c3a}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif}
main{max-width:56rem;margin:0 auto;padding:1.2rem 1.6rem 2rem;background:var(--paper);min-height:100vh}
.band{background:#24323f;color:#fff;text-align:center;padding:.45rem 1rem;font-size:.85rem;letter-spacing:.02em}
h1{font-size:1.5rem;line-height:1.25;margin:.2rem 0 .4rem}
h2{font-size:.82rem;letter-spacing:.06em;text-transform:uppercase;color:var(--soft);margin:1.4rem 0 .45rem;border-bottom:1px solid var(--line);padding-bottom:.2rem}
p{margin:.3rem 0}
.soft{color:var(--soft)} .small{font-size:.85rem}
.top{margin-top:.6rem;display:flex;justify-content:space-between;gap:1rem;flex-wrap:wrap;font-size:.9rem;color:var(--soft)}
.top b{color:var(--ink)}
.hero{display:grid;grid-template-columns:minmax(12rem,19rem) 1fr;gap:1.4rem;margin-top:1rem;align-items:start}
.hero img{width:100%;height:auto;border:1px solid var(--line);border-radius:4px;display:block;background:#eee}
.verdict{border-left:5px solid var(--bar);padding:.1rem 0 .1rem .9rem}
.verdict.low{border-left-color:var(--warn)}
.big{font-size:1.55rem;font-weight:650;line-height:1.2;margin:.1rem 0 .3rem}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:1.6rem}
.bars{display:grid;grid-template-columns:minmax(2.5rem,max-content) 1fr 3.4rem;gap:.35rem .6rem;align-items:center;font-size:.92rem}
.bars .track{background:#e7ecf0;height:.95rem;border-radius:2px;overflow:hidden}
.bars .fill{display:block;height:100%;background:var(--bar2)}
.bars .fill.first{background:var(--bar)}
.bars .n{text-align:right;font-variant-numeric:tabular-nums}
.bars .name{overflow-wrap:anywhere} .bars .first-name{font-weight:650}
.weight{display:flex;height:1.1rem;border-radius:3px;overflow:hidden;margin:.35rem 0;font-size:.75rem;line-height:1.1rem;color:#fff}
.weight span{background:var(--bar);text-align:center;overflow:hidden;white-space:nowrap}
.weight span+span{background:#6b7d8c}
blockquote{margin:.4rem 0;padding:.7rem 1rem;background:#f7f9fa;border-left:3px solid var(--line);white-space:pre-wrap;overflow-wrap:anywhere}
.unread{color:var(--soft);text-decoration:underline dotted;text-underline-offset:.2em}
ul.flags{list-style:none;padding:0;margin:.3rem 0}
ul.flags li{padding:.3rem .7rem;margin:.25rem 0;background:var(--warnbg);border-left:3px solid var(--warn);border-radius:0 3px 3px 0}
ul.flags li.red{background:var(--badbg);border-left-color:var(--bad)}
code,.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.86em;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;font-size:.88rem}
th{text-align:left;font-weight:600;color:var(--soft)} td,th{padding:.22rem .6rem .22rem 0;vertical-align:top;border-bottom:1px solid #edf0f3;overflow-wrap:anywhere}
table.facts th{width:11rem;font-weight:500}
a{color:#1f5c8b}
.state{padding:1rem 1.2rem;border-radius:6px;font-size:1.5rem;font-weight:650;margin:1rem 0;background:#e8f3ec;color:var(--good);border:1px solid #bfdccb}
.state.amber{background:var(--warnbg);color:var(--warn);border-color:#ecd2a4}
.state.red{background:var(--badbg);color:var(--bad);border-color:#eab8b4}
.do{font-size:1.1rem;padding:.8rem 1rem;background:#eef4f8;border-left:4px solid var(--bar);border-radius:0 4px 4px 0}
@media (max-width:40rem){.hero,.pair{grid-template-columns:1fr}main{padding:1rem}}
@page{size:A4;margin:11mm 12mm}
@media print{html{font-size:9.4pt}body{background:#fff;font-size:9.4pt;line-height:1.3}.hero{margin-top:.4rem}h1{font-size:1.35rem}ul.flags li{padding:.1rem .6rem;margin:.15rem 0}.bars{gap:.2rem .5rem}blockquote{padding:.4rem .8rem}.top{margin-top:.3rem}main{max-width:none;padding:0;min-height:0}.band{padding:.2rem;-webkit-print-color-adjust:exact;print-color-adjust:exact}
.bars .track,.bars .fill,.weight span,ul.flags li,blockquote,.state,.do{-webkit-print-color-adjust:exact;print-color-adjust:exact}h2{margin:.6rem 0 .25rem;break-after:avoid}.hero{grid-template-columns:54mm 1fr;gap:6mm}.pair{grid-template-columns:1fr 1fr}tr,blockquote,.pair{break-inside:avoid}table{font-size:8pt}td,th{padding-top:.05rem;padding-bottom:.05rem}}
";

/// A whole page around its content; `refresh_s` lets a browser load it again.
pub fn page(title: &str, refresh_s: Option<u32>, body: Markup) -> String {
    let band = html! { div class="band" { "RESEARCH USE ONLY. Not for diagnosis. A model wrote this page." } };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                @if let Some(seconds) = refresh_s { meta http-equiv="refresh" content=(seconds); }
                title { (title) }
                style { (PreEscaped(SHEET)) }
            }
            body { (band) main { (body) } (band) }
        }
    };
    page.into_string()
}
