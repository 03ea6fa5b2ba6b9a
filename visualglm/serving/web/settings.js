// Settings that the browser keeps: language, theme, model and sampling.

import { text } from "./texts.js";

const FIELDS = ["temperature", "top_p", "top_k", "max_tokens", "seed"];

/** A setting that is kept; storage may be switched off in a browser. */
export function kept(name, fallback = "") {
  try {
    return localStorage.getItem(name) ?? fallback;
  } catch {
    return fallback;
  }
}

export function keep(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // the setting lasts until the page is closed
  }
}

/** The fields of a request that the person has set. */
export function sampling() {
  const fields = [...document.querySelectorAll("#settings-dialog input")];
  return Object.fromEntries(fields.filter((field) => field.value !== "" && field.checkValidity()).map((field) => [field.name, field.valueAsNumber]));
}

/** Fill the fields with what was kept, and keep what is changed. */
export function startSampling() {
  for (const name of FIELDS) {
    const field = document.querySelector(`#settings-dialog [name=${name}]`);
    field.value = kept(name);
    field.addEventListener("change", () => {
      if (field.reportValidity()) keep(name, field.value);
    });
  }
  document.querySelector("#reset-settings").onclick = () => {
    for (const field of document.querySelectorAll("#settings-dialog input")) {
      field.value = "";
      keep(field.name, "");
    }
  };
}

/** Show the server's defaults in fields that are empty. */
export function showDefaults(defaults) {
  for (const name of FIELDS) {
    const value = defaults?.[name];
    const label = text(name === "seed" ? "random" : "fromServer");
    document.querySelector(`#settings-dialog [name=${name}]`).placeholder = value === undefined ? label : `${value} (${label})`;
  }
}
