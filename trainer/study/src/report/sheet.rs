//! The look of a run's page: one style sheet inside it, nothing loaded, no script.

use maud::{DOCTYPE, Markup, PreEscaped, html};

const SHEET: &str = "
:root{--ink:#1c2530;--soft:#5b6875;--line:#d5dce3;--bar:#2f6690;--warn:#8a4b00;--warnbg:#fff4e0;--good:#1d5c3a;--bad:#8c1c13}
*{box-sizing:border-box}
body{margin:0;background:#f3f5f7;color:var(--ink);font:15px/1.5 system-ui,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif}
main{max-width:66rem;margin:0 auto;padding:1.2rem 1.8rem 2rem;background:#fff;min-height:100vh}
.band{background:#24323f;color:#fff;text-align:center;padding:.45rem 1rem;font-size:.85rem;letter-spacing:.02em}
h1{font-size:1.6rem;line-height:1.25;margin:.2rem 0 .3rem;overflow-wrap:anywhere}
h2{font-size:.85rem;letter-spacing:.06em;text-transform:uppercase;color:var(--soft);margin:2rem 0 .6rem;border-bottom:1px solid var(--line);padding-bottom:.25rem}
h3{font-size:1rem;margin:1.2rem 0 .4rem}
p{margin:.3rem 0}
.soft{color:var(--soft)} .small{font-size:.85rem}
.lead{border-left:5px solid var(--bar);padding:.1rem 0 .1rem .9rem;margin:.9rem 0}
.lead .big{font-size:1.55rem;font-weight:650;line-height:1.25;margin:0}
.lead .big span{font-size:1rem;font-weight:400;color:var(--soft);white-space:nowrap}
ul.marks{list-style:none;padding:0;margin:.6rem 0}
ul.marks li{padding:.35rem .8rem;margin:.3rem 0;background:var(--warnbg);border-left:3px solid var(--warn);border-radius:0 3px 3px 0}
.plots{display:grid;grid-template-columns:1fr 1fr;gap:1.1rem 1.6rem;align-items:start}
figure{margin:0;break-inside:avoid} figure.wide{grid-column:1/-1;max-width:44rem} figure svg{display:block;width:100%;height:auto}
figcaption{font-size:.82rem;color:var(--soft);padding-left:.6rem;line-height:1.35}
table{border-collapse:collapse;width:100%;font-size:.88rem;font-variant-numeric:tabular-nums}
th{text-align:left;font-weight:600;color:var(--soft)} td,th{padding:.24rem .7rem .24rem 0;vertical-align:top;border-bottom:1px solid #edf0f3;overflow-wrap:anywhere}
td.n,th.n{text-align:right;white-space:nowrap} table.facts th{width:13rem;font-weight:500}
.examples{display:grid;grid-template-columns:1fr 1fr;gap:1rem 1.6rem}
.example{display:grid;grid-template-columns:7.5rem 1fr;gap:.9rem;break-inside:avoid;border-top:1px solid var(--line);padding-top:.6rem;font-size:.88rem}
.example img,.example .gone{width:7.5rem;height:7.5rem;object-fit:cover;border:1px solid var(--line);border-radius:3px;background:#eee}
.example .gone{display:flex;align-items:center;text-align:center;color:var(--soft);font-size:.75rem;padding:.4rem}
.tag{font-weight:650} .tag.right{color:var(--good)} .tag.wrong{color:var(--bad)}
blockquote{margin:.35rem 0;padding:.4rem .7rem;background:#f7f9fa;border-left:3px solid var(--line);white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.4}
.diagnostic{border-left:3px solid var(--warn);background:var(--warnbg);padding:.5rem .9rem;margin:.5rem 0;border-radius:0 3px 3px 0}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.84em;overflow-wrap:anywhere}
pre{background:#f7f9fa;padding:.8rem 1rem;white-space:pre-wrap}
summary{cursor:pointer;color:#1f5c8b}
@media (max-width:46rem){.plots,.examples{grid-template-columns:1fr}main{padding:1rem}}
@page{size:A4;margin:11mm 12mm}
@media print{html,body{font-size:9.2pt}body{background:#fff;line-height:1.35}main{max-width:none;padding:0;min-height:0}h2{margin:1rem 0 .4rem;break-after:avoid}
.plots{gap:.6rem 1rem}.band,ul.marks li,.diagnostic,blockquote,figure{-webkit-print-color-adjust:exact;print-color-adjust:exact}tr,.diagnostic{break-inside:avoid}
.example{grid-template-columns:24mm 1fr}.example img,.example .gone{width:24mm;height:24mm}}
";

/// A whole page around its content.
pub fn page(title: &str, body: Markup) -> String {
    let band = html! { div class="band" { "RESEARCH USE ONLY. Not for diagnosis." } };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                title { (title) }
                style { (PreEscaped(SHEET)) }
            }
            body { (band) main { (body) } (band) }
        }
    };
    page.into_string()
}
