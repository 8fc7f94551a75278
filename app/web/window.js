// Runs before the library's script: says where the websocket is and how large letters are, gives the
// terminal the keyboard once there is one, and the button when it has ended.
"use strict";

const terminal = document.getElementById("terminal");
const socket = new URL("ws", window.location.href);
socket.protocol = socket.protocol === "https:" ? "wss:" : "ws:";
socket.search = "";
terminal.dataset.sessionWebsocketUrl = socket.href;
const size = Number(new URLSearchParams(window.location.search).get("fontsize"));
terminal.dataset.fontSize = size >= 6 && size <= 72 ? String(size) : "16";

const again = document.getElementById("again");
again.addEventListener("click", () => window.location.reload());

let begun = false;
new MutationObserver(() => {
  if (!begun && document.body.classList.contains("-first-byte")) {
    begun = true;
    terminal.querySelector(".xterm-helper-textarea").focus();
  }
  if (document.body.classList.contains("-closed")) {
    again.focus();
  }
}).observe(document.body, { attributes: true, attributeFilter: ["class"] });
