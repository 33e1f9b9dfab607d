// SPDX-License-Identifier: Apache-2.0
// Opens hosts, filters and sorts them. Everything that hosts have said is set as text, never as markup.
"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const data = JSON.parse($("#data").textContent);
  const SIGNS = { PASS: "✓", WARN: "!", FAIL: "✕", UNKNOWN: "?", SKIP: "–" };
  const STATUSES = Object.keys(SIGNS);

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) if (value !== null) element.setAttribute(name, value);
    for (const child of children) if (child !== null && child !== "") element.append(child);
    return element;
  }

  // --- one host --------------------------------------------------------------------------------------------------

  function badge(word) {
    const known = STATUSES.includes(word) ? word : "UNKNOWN";
    return make("span", { class: `st ${known}` }, make("i", { "aria-hidden": "true" }, SIGNS[known]), known);
  }

  function table(headings, rows, classes = []) {
    const head = make("tr", {}, ...headings.map((word) => make("th", { scope: "col" }, word)));
    const body = rows.map((row) => {
      const cells = row.cells || row;
      return make("tr", { class: row.class || null }, ...cells.map((cell, at) => make("td", { class: classes[at] || null }, cell)));
    });
    return make("div", { class: "over" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  }

  function part(title, ...content) {
    return make("div", {}, make("h4", {}, title), ...content);
  }

  function folded(title, ...content) {
    return make("details", {}, make("summary", {}, title), ...content);
  }

  function curve(points) {
    if (!/^[\d., ]+$/.test(points)) return "";
    const name = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(name, "svg");
    const line = document.createElementNS(name, "polyline");
    svg.setAttribute("viewBox", "0 0 96 22");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", "loss by epoch");
    line.setAttribute("points", points);
    svg.append(line);
    return svg;
  }

  const yes = (good) => make("span", { class: good ? "ok" : "no" }, good ? "✓ yes" : "✕ no");
  const tier = (number) => (number <= 6 ? `T${number}` : "");

  function checkRows(rows) {
    return rows.map(([number, word, id, count, targets, message, measured, source, action, evidence, seconds]) => [
      badge(word), tier(number), make("code", {}, id), count > 1 ? `${count} × ${targets}` : targets,
      make("div", {}, message, ...(action ? [make("div", {}, make("b", {}, action))] : []),
        ...(evidence ? [make("div", { class: "soft" }, `Evidence: ${evidence}`)] : [])),
      make("div", { class: "num" }, measured, ...(source ? [make("div", { class: "soft" }, source)] : [])), seconds,
    ]);
  }

  function inside(host) {
    const shared = data.shared[host.reasons];
    const box = make("div", { class: "inside" });
    const why = make("p", { class: "why" }, make("b", {}, host.label), host.why ? `: ${host.why}` : "");
    const link = host.file ? make("p", {}, make("a", { href: `./${encodeURIComponent(host.file)}` }, "All of it as JSON")) : "";
    box.append(why, link || "");

    // What could not be judged behind a tier that failed follows from that, and is no trouble of its own.
    const failed = Math.min(...host.checks.filter((row) => row[1] === "FAIL" && row[0] <= 6).map((row) => row[0]));
    const follows = (row) => row[1] === "UNKNOWN" && row[0] <= 6 && row[0] > failed;
    const wrong = host.checks.filter((row) => !["PASS", "SKIP"].includes(row[1]) && !follows(row));
    const unmade = host.checks.filter(follows);
    const fine = host.checks.filter((row) => ["PASS", "SKIP"].includes(row[1]));
    const headings = ["verdict", "tier", "check", "where", "what", "measured", "took"];
    const classes = ["id", "id", "id", "at", "say", "at", "id"];
    const total = (list) => list.reduce((sum, row) => sum + row[3], 0);
    if (wrong.length) box.append(part("What is not in order", table(headings, checkRows(wrong), classes)));

    const halves = make("div", { class: "halves" });
    if (host.facts.length) {
      halves.append(part("Host", make("dl", {}, ...host.facts.flatMap(([key, value]) => [make("dt", {}, key), make("dd", {}, value)]))));
    }
    if (host.versions.length) {
      const rows = host.versions.map(([what, planned, found, differs]) => ({ cells: [what, planned, found + (differs ? " (differs)" : "")], class: differs ? "differs" : null }));
      halves.append(part("Versions", table(["what", "planned", "found"], rows)));
    }
    box.append(halves);
    if (host.gpus.length) box.append(part("GPUs", table(["verdict", "bus", "product", "memory", "UUID", "VBIOS"], host.gpus.map(([word, ...rest]) => [badge(word), ...rest]))));
    if (host.jobs.length) {
      const rows = host.jobs.map(([word, environment, framework, python, device, dataset, accuracy, seconds, points, note]) => [
        badge(word), environment, framework, python, device, dataset, accuracy, seconds, curve(points), note]);
      box.append(part("Training jobs", table(["verdict", "environment", "framework", "Python", "device", "data set", "accuracy", "took", "loss", "remark"], rows)));
    }
    const proof = host.proof;
    if (!proof.targets.length && proof.control.length) {
      const refused = proof.control.every(([, word]) => word === "rejected");
      box.append(part("The same jobs without a GPU", refused
        ? make("p", {}, `Asked for a GPU, each job refused (${proof.control.length} of ${proof.control.length}).`)
        : table(["job", "asked for a GPU that is not there"], proof.control)));
    } else if (proof.targets.length) {
      const control = new Map(proof.control);
      const known = new Map(proof.targets.map((row) => [row[0], row]));
      const rows = [...new Set([...known.keys(), ...control.keys()])].map((name) => {
        const [, reached, signals] = known.get(name) || [name, null, []];
        const list = make("div", {}, ...signals.map(([signal, side, ok, detail]) =>
          make("div", {}, make("span", { class: ok ? "ok" : "soft" }, ok ? "✓ " : "– "), `${signal} (${side})`, detail ? `: ${detail}` : "")));
        const refused = control.get(name);
        return [name, reached === null ? "" : yes(reached), list, refused || "not made"];
      });
      box.append(part(`Proof that the GPU was used${proof.needed ? `: ${proof.needed} signals needed` : ""}`,
        table(["job", "proven", "signals", "the same job without a GPU"], rows, ["", "", "say"])));
    }
    if (host.drift.length) {
      const rows = host.drift.map(([kind, what, before, after, worse]) => [kind, what, before,
        make("span", {}, after, ...(worse === true ? [" ", make("span", { class: "down" }, "worse")] : worse === false ? [" ", make("span", { class: "up" }, "better")] : []))]);
      box.append(part("Changed since the last run", table(["kind", "what", "before", "now"], rows)));
    }
    if (shared.remarks.length) box.append(part("Remarks on the plan", make("div", {}, ...shared.remarks.map((row) => make("p", {}, row[0])))));
    if (shared.reasons.length) box.append(folded("The plan and why", table(["about", "choice", "because", "source"], shared.reasons, ["", "", "say", "soft"])));
    if (shared.change.length) box.append(folded("What this run had to change", table(["part", "why"], shared.change)));
    if (unmade.length) box.append(folded(`Not judged, because T${failed} failed (${total(unmade)})`, table(headings, checkRows(unmade), classes)));
    if (fine.length) {
      const passed = total(fine.filter((row) => row[1] === "PASS"));
      const left = total(fine) - passed;
      box.append(folded(`Checks in order (${passed} passed${left ? `, ${left} left out` : ""})`, table(headings, checkRows(fine), classes)));
    }
    if (host.extra.length) box.append(folded("More", table(["what", "value"], host.extra)));
    return box;
  }

  function toggle(row, wanted) {
    const button = $(".host", row);
    const open = wanted === undefined ? button.getAttribute("aria-expanded") !== "true" : wanted;
    const next = row.nextElementSibling;
    const there = next && next.classList.contains("detail");
    if (open && !there) {
      const id = `d-${row.id}`;
      row.after(make("tr", { class: "detail", id }, make("td", { colspan: String(row.cells.length) }, inside(data.hosts[row.id]))));
      button.setAttribute("aria-controls", id);
    } else if (!open && there) {
      next.remove();
      button.removeAttribute("aria-controls");
    }
    button.setAttribute("aria-expanded", String(open));
    row.classList.toggle("open", open);
  }

  const body = $(".matrix tbody");
  const rows = all(".row", body);
  const visible = () => all(".row", body).filter((row) => !row.hidden);

  body.addEventListener("click", (event) => {
    const row = event.target.closest(".row");
    if (row && !event.target.closest("a") && !String(getSelection())) toggle(row);
  });

  function goTo(hash) {
    const row = hash.startsWith("#h-") && document.getElementById(hash.slice(1));
    if (!row || !row.classList.contains("row")) return;
    if (row.hidden) reset();
    toggle(row, true);
    $(".host", row).focus({ preventScroll: true });
    row.scrollIntoView({ block: "start" });
  }
  addEventListener("hashchange", () => goTo(location.hash));
  document.addEventListener("click", (event) => {
    const link = event.target.closest(".hl");
    if (link && link.hash === location.hash) goTo(link.hash);
  });

  // --- filter and order -------------------------------------------------------------------------------------------

  const input = $("#filter");
  const chips = all("[data-status]");
  const everything = $("#all");

  function filter() {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = chips.filter((chip) => chip.getAttribute("aria-pressed") === "true").map((chip) => chip.dataset.status);
    let count = 0;
    for (const row of rows) {
      const fits = words.every((word) => row.dataset.q.includes(word)) && (!wanted.length || wanted.includes(row.dataset.s));
      row.hidden = !fits;
      const next = row.nextElementSibling;
      if (next && next.classList.contains("detail")) next.hidden = !fits;
      count += fits;
    }
    $("#shown").textContent = count === rows.length ? `${count} host${count === 1 ? "" : "s"}` : `${count} of ${rows.length} hosts`;
    $("#none").hidden = count > 0 || !rows.length;
    everything.hidden = count > 60 || !count;
  }

  function reset() {
    input.value = "";
    for (const chip of chips) chip.setAttribute("aria-pressed", "false");
    filter();
  }

  input.addEventListener("input", filter);
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
      filter();
    });
  }
  everything.addEventListener("click", () => {
    const shown = visible();
    const open = shown.some((row) => !row.classList.contains("open"));
    for (const row of shown) toggle(row, open);
    everything.textContent = open ? "Close all" : "Open all shown";
  });

  const collator = new Intl.Collator("en", { numeric: true });
  const keys = {
    name: (row) => $(".host", row).textContent,
    verdict: (row) => row.dataset.v,
    gpus: (row) => $(".gpus", row).textContent,
    time: (row) => row.dataset.t,
  };
  for (const button of all(".sort")) {
    button.addEventListener("click", () => {
      const heading = button.closest("th");
      const first = button.dataset.key === "verdict" ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const direction = heading.getAttribute("aria-sort") === first ? other : first;
      for (const cell of all("[aria-sort]")) cell.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", direction);
      const sign = direction === "ascending" ? 1 : -1;
      const key = keys[button.dataset.key];
      const order = rows.map((row) => [key(row), keys.name(row), row]);
      order.sort((one, two) => sign * collator.compare(one[0], two[0]) || collator.compare(one[1], two[1]));
      const pieces = document.createDocumentFragment();
      for (const [, , row] of order) {
        const next = row.nextElementSibling;
        const detail = next && next.classList.contains("detail") ? next : null;
        pieces.append(row);
        if (detail) pieces.append(detail);
      }
      body.append(pieces);
    });
  }

  // --- keys -------------------------------------------------------------------------------------------------------

  document.addEventListener("keydown", (event) => {
    const writing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/" && !writing) {
      event.preventDefault();
      input.focus();
      input.scrollIntoView({ block: "center" });
    } else if (event.key === "Escape" && event.target === input) {
      reset();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const buttons = visible().map((row) => $(".host", row));
      const at = buttons.indexOf(event.target);
      if (at < 0 && event.target !== input) return;
      const next = buttons[at + (event.key === "ArrowDown" ? 1 : -1)];
      if (next || at === 0) {
        event.preventDefault();
        (next || input).focus();
      }
    }
  });

  // --- how old, and light or dark ---------------------------------------------------------------------------------

  const DAY = 86400e3;
  for (const time of all("time")) {
    const age = Date.now() - Date.parse(time.dateTime);
    if (!(age >= -DAY)) continue;
    const words = age < 2 * DAY ? `${Math.max(0, Math.round(age / 3600e3))} h` : `${Math.round(age / DAY)} d`;
    time.title = `${time.dateTime}, ${words} ago`;
    if (time.closest(".when")) time.after(make("span", { class: age > 30 * DAY ? "age old" : "age" }, words));
  }

  const theme = $("#theme");
  const dark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => { theme.textContent = dark() ? "Light" : "Dark"; };
  try { // a browser may refuse storage to a page from a disk
    const kept = localStorage.getItem("gpulab-theme");
    if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
  } catch { /* as the system has it */ }
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const next = dark() ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try { localStorage.setItem("gpulab-theme", next); } catch { /* not kept */ }
    name();
  });
  name();

  filter();
  // Once more when all is loaded, because then the browser takes the focus away.
  if (location.hash) {
    goTo(location.hash);
    addEventListener("load", () => setTimeout(() => goTo(location.hash)));
  }
})();
