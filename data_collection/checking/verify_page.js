// The page on which a rationale is marked. Each mark goes to the program at once; one that cannot be sent waits in the
// browser's storage, so that neither a page that dies nor a program that is down loses it. Without scripts the form
// works as a form.
"use strict";

const form = document.querySelector("form.marks");
const state = document.getElementById("state");
const storage = "unsent marks " + form.dataset.storage;  // of this checker and this folder
const path = location.pathname;
let sending = null;

function unsent() {
  try { return JSON.parse(localStorage.getItem(storage)) || {}; } catch { return {}; }
}

function keep(change) {
  const waiting = unsent();
  change(waiting);
  localStorage.setItem(storage, JSON.stringify(waiting));
}

function say(text, isBad) {
  state.textContent = text;
  state.classList.toggle("unsaved", isBad);
}

async function send(of, fields) {
  const body = new URLSearchParams({...fields, token: form.elements.token.value, then: "stay"});
  const answer = await fetch(of, {method: "POST", body});
  if (!answer.ok) throw new Error(answer.status === 403 ? "open this page again" : "trying again");
}

// Sends what waits until nothing is left; one sender at a time, so that the last mark is the one that counts.
async function sendAll() {
  for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
    try {
      for (let waiting = Object.entries(unsent()); waiting.length; waiting = Object.entries(unsent())) {
        const [of, fields] = waiting[0];
        await send(of, fields);
        keep(now => {
          for (const [field, value] of Object.entries(fields)) if (now[of]?.[field] === value) delete now[of][field];
          if (now[of] && !Object.keys(now[of]).length) delete now[of];
        });
      }
      say("Saved", false);
      return;
    } catch (error) {
      say("Not saved yet: " + (error instanceof TypeError ? "the program does not answer, trying again" : error.message), true);
      await new Promise(go => setTimeout(go, wait));
    }
  }
}

function flush() {
  sending ??= sendAll().finally(() => { sending = null; });
  return sending;
}

function mark(field, value) {
  keep(waiting => { (waiting[path] ??= {})[field] = value; });
  flush();
}

form.addEventListener("change", event => {
  event.target.closest("fieldset")?.classList.remove("missing");
  if (event.target.name !== "comment") mark(event.target.name, event.target.value);
});

let typing;
form.elements.comment.addEventListener("input", event => {
  keep(waiting => { (waiting[path] ??= {}).comment = event.target.value; });
  say("", false);
  clearTimeout(typing);
  typing = setTimeout(flush, 600);
});

form.addEventListener("keydown", event => {
  const criterion = event.target.closest("fieldset");
  // On a keyboard of another script the key in the letter's place counts.
  const letter = /^[a-z]$/i.test(event.key) ? event.key : event.code.replace("Key", "");
  const value = {y: "yes", n: "no", u: "unsure"}[letter.toLowerCase()];
  if (!criterion || !value || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  const choice = criterion.querySelector(`input[value="${value}"]`);
  choice.checked = true;
  choice.dispatchEvent(new Event("change", {bubbles: true}));
  const all = [...form.querySelectorAll("fieldset")];
  const next = all[all.indexOf(criterion) + 1];
  (next ? next.querySelector("input:checked") || next.querySelector("input") : form.querySelector("button")).focus();
});

form.addEventListener("submit", async event => {
  event.preventDefault();
  const missing = [...form.querySelectorAll("fieldset")].filter(one => !one.querySelector("input:checked"));
  missing.forEach(one => one.classList.add("missing"));
  if (missing.length) {
    say(missing.length === 1 ? "One criterion is not marked" : missing.length + " criteria are not marked", true);
    missing[0].querySelector("input").focus();
    return;
  }
  await flush();
  location.assign("/next");
});

for (const [field, value] of Object.entries(unsent()[path] || {})) {
  const element = form.elements[field];
  if (element) element.value = value;
}
if (Object.keys(unsent()).length) flush();
(form.querySelector("fieldset:not(:has(input:checked)) input") || form.querySelector("input:checked")).focus({preventScroll: true});
