// What is shown, as a file of comma-separated values.

const quoted = (value) => {
  const text = value == null || Number.isNaN(value) ? "" : String(value);
  // A text that a spreadsheet would run as a formula is kept a text.
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
};

export function save(name, head, rows) {
  const text = [head, ...rows].map((row) => row.map(quoted).join(",")).join("\r\n") + "\r\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}
