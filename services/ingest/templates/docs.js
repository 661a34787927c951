// Without a clipboard (plain http, no script) one click on the command selects all of it.
if (navigator.clipboard) {
  for (const command of document.querySelectorAll("pre.curl")) {
    const button = document.createElement("button");
    button.textContent = "copy";
    button.addEventListener("click", () => navigator.clipboard.writeText(command.textContent));
    command.before(button);
  }
}
