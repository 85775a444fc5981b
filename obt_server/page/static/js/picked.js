// Which two results are to be compared; kept while one goes about. A result is a machine and a job.

export const picked = [];

export const keyOf = (job) => `${job.agent_id}/${job.job_id}`;
export const isPicked = (job) => picked.includes(keyOf(job));

export function pick(job) {
  if (!isPicked(job)) picked.push(keyOf(job));
  if (picked.length > 2) picked.shift();
}

export function drop(job) {
  const at = picked.indexOf(keyOf(job));
  if (at >= 0) picked.splice(at, 1);
}
