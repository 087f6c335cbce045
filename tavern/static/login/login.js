// Exchanges the launch code for a session cookie. The code comes in the fragment, which is never sent by itself.
"use strict";

async function enter(code) {
  const answer = document.getElementById("answer");
  answer.textContent = "";
  try {
    const reply = await fetch("/login", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Realm": "1" },
      body: JSON.stringify({ code }),
    });
    if (reply.ok) {
      location.replace("/");
      return;
    }
    const problem = await reply.json();
    answer.textContent = [problem.detail, problem.hint].filter(Boolean).join(" ");
  } catch {
    answer.textContent = "The Tavern does not answer.";
  }
}

document.getElementById("login").addEventListener("submit", (event) => {
  event.preventDefault();
  enter(document.getElementById("code").value.trim());
});

if (location.hash.length > 1) {
  const code = location.hash.slice(1);
  history.replaceState(null, "", location.pathname);
  enter(code);
}
