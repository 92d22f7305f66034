// Energy of a machine by the day, and its longest alert: node clients/energy.mjs [machine]. Node 20, or a browser.
// SPINDLE_URL: the gateway. A web page of another origin must be allowed by the gateway.

const API = `${globalThis.process?.env.SPINDLE_URL ?? "http://127.0.0.1:8000"}/api/v1`;

/** The rows of a view that meet the filters: [["day", "gte.2021-09-01"], ["day", "lt.2021-10-01"]]. */
export async function read(view, filters) {
  const answer = await fetch(`${API}/${view}?${new URLSearchParams(filters)}`);
  const body = await answer.json();
  if (!answer.ok) throw new Error(`${view}: ${answer.status} ${body.message}`);
  return body;
}

/** All rows of a machine, a page at a time. `key` has another value in each row of the machine, such as `id`. */
export async function* readPages(view, machine, key, rows = 1000) {
  let after = [];
  for (;;) {
    const page = await read(view, [["machine", `eq.${machine}`], ["order", key], ["limit", rows], ...after]);
    yield* page;
    if (page.length < rows) return;
    after = [[key, `gt.${page.at(-1)[key]}`]];
  }
}

async function main(machine = "branosera") {
  const [{ last_day: lastDay }] = await read("machines", { machine: `eq.${machine}` });
  const hours = await read("energy_consumption", { machine: `eq.${machine}`, day: `eq.${lastDay}`, order: "hour_ts" });
  let longest;
  let alerts = 0;
  for await (const alert of readPages("alerts_detail", machine, "id", 500)) {
    alerts += 1;
    if ((alert.duration_seconds ?? 0) > (longest?.duration_seconds ?? 0)) longest = alert;
  }
  const kwh = hours.reduce((sum, hour) => sum + hour.energy_kwh, 0);
  console.log(JSON.stringify({ machine, day: lastDay, kwh: Number(kwh.toFixed(3)), alerts, longest: longest?.id }));
}

if (globalThis.process?.argv[1] === import.meta.filename) {
  await main(process.argv[2]);
}
