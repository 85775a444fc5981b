// Which two results are to be compared; kept while one goes about.

export const picked = [];

export function pick(jobId) {
  if (!picked.includes(jobId)) picked.push(jobId);
  if (picked.length > 2) picked.shift();
}

export function drop(jobId) {
  const at = picked.indexOf(jobId);
  if (at >= 0) picked.splice(at, 1);
}
