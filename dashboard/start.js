// The start page: asks data_status, machines and machine_util, and shows what they say. No build step, no library.

const DAYS_SHOWN = 7;
const DAY_MS = 86_400_000;
// The default of STALE_AFTER_HOURS; the API does not tell what .env says.
const OLD_AFTER_HOURS = 72;
const READ_AGAIN_MS = 60_000;
const PATIENCE_MS = 10_000;

const byId = (id) => document.getElementById(id);

// Whether the gateway had an answer of this round from its memory only, as the database does not answer.
let fromMemory = false;

/** The answer of the API at a path, or an Error whose message a person can read. */
async function read(path) {
  let answer;
  try {
    answer = await fetch(`api/v1/${path}`, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  } catch (error) {
    throw new Error(error.name === "TimeoutError" ? "no answer within ten seconds" : "no connection to the gateway");
  }
  fromMemory ||= answer.headers.get("X-Cache") === "STALE";
  const body = await answer.json().catch(() => null);
  if (!answer.ok) {
    const error = new Error(`${path.split("?")[0]} answered ${answer.status}${body?.message ? `: ${body.message}` : ""}`);
    throw Object.assign(error, { status: answer.status });
  }
  if (body === null) {
    throw new Error(`${path.split("?")[0]} did not answer with JSON`);
  }
  return body;
}

/** A local day "2026-11-23" moved by a number of days. */
function moveDay(day, by) {
  return new Date(Date.parse(`${day}T00:00:00Z`) + by * DAY_MS).toISOString().slice(0, 10);
}

function sayDay(day, options = { day: "numeric", month: "short", year: "numeric" }) {
  return new Intl.DateTimeFormat("en-GB", { ...options, timeZone: "UTC" }).format(new Date(`${day}T00:00:00Z`));
}

function sayMoment(moment, timeZone) {
  const options = { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" };
  return `${new Intl.DateTimeFormat("en-GB", { ...options, timeZone }).format(new Date(moment))} ${timeZone}`;
}

function sayAge(moment) {
  const minutes = Math.max(0, Math.round((Date.now() - Date.parse(moment)) / 60_000));
  const say = (count, unit) => `${count} ${unit}${count === 1 ? "" : "s"} ago`;
  if (minutes < 1) return "just now";
  if (minutes < 120) return say(minutes, "minute");
  if (minutes < 48 * 60) return say(Math.round(minutes / 60), "hour");
  return say(Math.round(minutes / 1440), "day");
}

function hoursOld(moment) {
  return (Date.now() - Date.parse(moment)) / 3_600_000;
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function showStatus(state, verdict, reason) {
  byId("status").hidden = false;
  byId("status").dataset.state = state;
  byId("verdict").textContent = verdict;
  byId("reason").textContent = reason;
}

function showNothingYet() {
  showStatus("warn", "There are no results yet", "Run make demo, or set DB_* in .env and run make refresh.");
}

/** What the numbers are worth: `statuses` are data_status's answers, one a machine. */
function judge(status, machines, statuses) {
  if (!status.last_date || machines.length === 0) {
    showNothingYet();
    return;
  }
  if (fromMemory) {
    showStatus("warn", "The API answers from memory", "PostgREST or the database does not answer, so these are the last answers known. make status says what is down.");
    return;
  }
  const refreshed = status.refreshed_at ? `Last good refresh ${sayAge(status.refreshed_at)}.` : "No refresh has succeeded yet.";
  if (!status.refresh_ok) {
    showStatus("bad", "The last refresh failed", `${refreshed} Some numbers may be older than others; make status says what went wrong.`);
    return;
  }
  const old = machines.filter((_, index) => hoursOld(statuses[index].data_until) > OLD_AFTER_HOURS);
  if (old.length > 0) {
    const names = old.map((machine) => machine.label).join(", ");
    showStatus("warn", "The data is old", `${refreshed} No log row for more than ${OLD_AFTER_HOURS} hours: ${names}.`);
    return;
  }
  const oldest = statuses.map((one) => one.data_until).sort()[0];
  showStatus("good", "The data is fresh", `${refreshed} ${statuses.length > 1 ? "Every machine" : "The machine"} has log rows up to ${sayAge(oldest)}.`);
}

function dayRow(day, result, isLast) {
  const row = element("tr", {}, element("th", { scope: "row" }, sayDay(day, { weekday: "short", day: "numeric", month: "short" }) + (isLast ? "*" : "")));
  if (!result) {
    row.append(element("td", { className: "none", colSpan: 3 }, "no log rows"));
    return row;
  }
  const filled = element("span");
  filled.style.width = `${result.running_percentage}%`;
  const bar = element("span", { className: "bar" }, filled);
  bar.setAttribute("aria-hidden", "true");
  row.append(
    element("td", { className: "wide" }, bar),
    element("td", {}, result.state_running.toFixed(2)),
    element("td", { className: "share" }, `${result.running_percentage.toFixed(1)} %`),
  );
  return row;
}

function machineCard(machine, status, results) {
  const card = byId("machine-template").content.cloneNode(true);
  card.querySelector("h3").append(machine.label, element("small", {}, machine.machine));
  if (!machine.last_day) {
    card.querySelector(".days").textContent = "no results yet";
    card.querySelector("table").remove();
    card.querySelector(".until").parentElement.remove();
    return card;
  }
  card.querySelector(".days").textContent = `${sayDay(machine.first_day)} to ${sayDay(machine.last_day)}`;
  card.querySelector(".until").textContent = `${sayMoment(status.data_until, machine.time_zone)} (${sayAge(status.data_until)})`;
  card.querySelector("caption").textContent = `Running time of ${machine.label}, the last ${DAYS_SHOWN} days, hours and percent of the day`;
  const byDay = new Map(results.map((result) => [result.dt, result]));
  const rows = card.querySelector("tbody");
  for (let back = 0; back < DAYS_SHOWN; back += 1) {
    const day = moveDay(machine.last_day, -back);
    if (day < machine.first_day) break;
    rows.append(dayRow(day, byDay.get(day), back === 0));
  }
  card.querySelector("article").append(element("p", { className: "so-far" }, "* so far: the next refresh completes the last day"));
  return card;
}

/** Put examples that have an answer into the links. */
function fillLinks(values) {
  for (const link of document.querySelectorAll("#links a[data-query]")) {
    const query = link.dataset.query.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(values[name]));
    link.setAttribute("href", `${link.getAttribute("href").split("?")[0]}?${query}`);
    let shown = link.parentElement.querySelector("code");
    if (!shown) {
      shown = element("code");
      link.parentElement.append(shown);
    }
    // One unbreakable piece a parameter, so that a line never ends inside a day.
    const parts = decodeURIComponent(query).split("&").map((part, index) => element("span", {}, (index ? "&" : "?") + part));
    shown.replaceChildren(...parts);
  }
  byId("links-lead").textContent =
    `Eleven addresses, JSON or CSV. Each link is an example with the usual filter, here for ${sayDay(values.day).replaceAll(" ", "\u00a0")}.`;
}

async function show() {
  fromMemory = false;
  try {
    const [status, machines] = await Promise.all([read("data_status"), read("machines?order=machine")]);
    const known = machines.filter((machine) => machine.last_day);
    const [statuses, utilization, sensors] = await Promise.all([
      Promise.all(known.map(({ machine }) => read(`data_status?machine=eq.${encodeURIComponent(machine)}`))),
      Promise.all(known.map(({ machine, last_day: last }) =>
        read(`machine_util?machine=eq.${encodeURIComponent(machine)}&dt=gte.${moveDay(last, 1 - DAYS_SHOWN)}&order=dt.desc`))),
      known.length > 0
        ? read(`sensors?machine=eq.${encodeURIComponent(known[0].machine)}&last_day=not.is.null&order=sensor_name&limit=1`)
        : [],
    ]);
    judge(status, known, statuses);
    byId("machines").replaceChildren(...machines.map((machine) => {
      const index = known.indexOf(machine);
      return machineCard(machine, statuses[index], utilization[index]);
    }));
    byId("machines-section").hidden = machines.length === 0;
    if (known.length > 0) {
      // The last whole day with results, as the last one may have just begun.
      const day = utilization[0].find((result) => result.dt < known[0].last_day)?.dt ?? status.last_date;
      fillLinks({ day, next: moveDay(day, 1), machine: known[0].machine, sensor: sensors[0]?.sensor_name ?? "TEMPERATURA_BASE" });
    }
    byId("read-at").textContent = `read at ${new Date().toLocaleTimeString("en-GB")}`;
  } catch (error) {
    if (error.status === 404) {
      showNothingYet();
      return;
    }
    if (error.status === 401) {
      showStatus("warn", "A token is needed", "This API has a login, and this page has no token. Programs send theirs in the header Authorization.");
      return;
    }
    const shown = byId("machines-section").hidden ? "" : " What is shown below was read before.";
    showStatus("bad", "The API does not answer", `${error.message}. make status says what is down, make serve starts it.${shown}`);
  }
}

showStatus("waiting", "Asking the API …", "How fresh the data is comes here.");
byId("csv").textContent = `curl -H 'Accept: text/csv' '${new URL("api/v1/machine_util?order=dt.desc&limit=7", location.href)}'`;
show();
setInterval(() => document.visibilityState === "visible" && show(), READ_AGAIN_MS);
