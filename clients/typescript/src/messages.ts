// Written by clients/typescript/generate.py from the protocol's schema.

/**
 * Who dials.
 *
 * `id` is a UUIDv7 made once and kept; `name` is for people; `instance` is random per process;
 * `boot_id` is the kernel's. `labels` are those of the machine's own configuration.
 */
export interface AgentIdentity {
  id: string;
  name: string;
  version: string;
  instance: string;
  boot_id?: string | null;
  labels?: ReadonlyArray<string>;
}

/**
 * `agent_info`: what this agent is, how it is set (redacted), what it allows, and what it costs.
 */
export interface AgentInfoResult {
  version: string;
  python: string;
  uptime_s: number;
  started_at: number;
  agent_id: string;
  name: string;
  config: unknown;
  policy: unknown;
  link: LinkStatistics;
  process: ProcessUse;
}

/**
 * What the agent takes at most.
 */
export interface AgentLimits {
  max_frame_bytes?: number;
  max_streams?: number;
  max_jobs?: number;
}

/**
 * `benchmark_metrics`: live series of a benchmark; `after` backfills from that sample number.
 */
export interface BenchmarkMetricsParams {
  job_id: string;
  after?: number | null;
}

/**
 * `benchmark_status`; `include_result` adds whatever results exist so far.
 */
export interface BenchmarkStatusParams {
  job_id: string;
  include_result?: boolean;
}

/**
 * The job, and the result so far (a `BenchmarkResult`, of the agent's release).
 */
export interface BenchmarkStatusResult {
  job: JobSummary;
  result?: unknown;
}

/**
 * The firmware, from DMI.
 */
export interface Bios {
  vendor?: string | null;
  version?: string | null;
  date?: string | null;
}

/**
 * `blob.put`: a base64 piece of an image too large for a frame.
 *
 * 16 MiB a session, kept 60 s after the last piece.
 */
export interface BlobPut {
  blob: string;
  offset: number;
  data: string;
  last?: boolean;
}

/**
 * Bytes held of that blob after this piece.
 */
export interface BlobPutResult {
  blob: string;
  bytes: number;
}

/**
 * The mainboard or the whole machine, from DMI or the device tree. No serial number is ever read.
 */
export interface Board {
  vendor?: string | null;
  name?: string | null;
  product?: string | null;
}

/**
 * `cancel`: exactly one of `id` (a request of this session) and `job_id`.
 */
export interface CancelParams {
  id?: number | string | null;
  job_id?: string | null;
}

/**
 * `cancelling`, `unknown`, `answered` (the request had its final) or the job's terminal state.
 */
export interface CancelResult {
  state: "answered" | "cancelling" | "unknown" | "accepted" | "cancelled" | "completed" | "failed" | "interrupted" | "queued" | "running";
}

/**
 * What the control groups of Ollama's process allow it: the tightest of its group and all ancestors.
 *
 * Beyond `memory_bytes` a process is killed; beyond `memory_high_bytes` (version 2) the kernel slows it
 * down and takes memory back. `cpus` is a bandwidth in whole CPUs (1.5 is one and a half); `cpuset` the
 * kernel's list ("0-3,8") of the CPUs that it may use, where they are fewer than the machine's. A null with
 * no reason in `unavailable` means that there is no limit.
 */
export interface CgroupLimits {
  memory_bytes?: number | null;
  memory_high_bytes?: number | null;
  cpus?: number | null;
  cpuset?: string | null;
  cgroup_version?: number | null;
  unavailable?: Record<string, string>;
}

/**
 * `copy_model`.
 */
export interface CopyModelParams {
  source: string;
  destination: string;
}

/**
 * One kind of core of a hybrid CPU. `name` is performance, efficiency or the kernel's word.
 */
export interface CoreType {
  name: string;
  logical_cores: number;
  max_hertz?: number | null;
}

/**
 * The CPUs.
 *
 * `isa` holds the kernel's words for extensions that inference uses (avx2, avx512f, asimd, sve ...).
 * `governor` is by what rule the kernel chooses clocks ("powersave"); several words where cores differ.
 */
export interface CpuInfo {
  model?: string | null;
  vendor?: string | null;
  microcode?: string | null;
  sockets?: number | null;
  physical_cores?: number | null;
  logical_cores?: number | null;
  core_types?: ReadonlyArray<CoreType>;
  isa?: ReadonlyArray<string>;
  base_hertz?: number | null;
  max_hertz?: number | null;
  numa_nodes?: number | null;
  governor?: string | null;
  unavailable?: Record<string, string>;
}

/**
 * All CPUs since the sample before.
 *
 * `load` is the kernel's average over 1, 5 and 15 minutes. `package_energy_joules` counts all packages
 * since an arbitrary start: only differences mean something, as of `throttled_seconds_total`, the time in
 * which heat held a package back. `clock_hertz` is the fastest clock of up to 8 cores, up to 5 s old.
 */
export interface CpuSample {
  utilization_ratio?: number | null;
  per_core_ratio?: ReadonlyArray<number>;
  load?: ReadonlyArray<number>;
  temperature_celsius?: number | null;
  package_energy_joules?: number | null;
  clock_hertz?: number | null;
  throttled_seconds_total?: number | null;
  unavailable?: Record<string, string>;
}

/**
 * `create_model`, a job; `from` names an installed model. Host files cannot be named.
 */
export interface CreateModelParams {
  job_id: string;
  model: string;
  from: string;
  system?: string | null;
  template?: string | null;
  parameters?: unknown;
  quantize?: string | null;
  not_after?: number | null;
}

/**
 * `delete_model`.
 */
export interface DeleteModelParams {
  model: string;
}

/**
 * `delete_model`.
 *
 * `freed_bytes` is the model's size when its weights are gone with it, and 0 when another model keeps
 * them, so that shared weights count once, with the last model that has them; null when Ollama does not
 * tell. A template, a licence or parameters (some KiB) go by the weights. `free_bytes` is what the disk of
 * Ollama's models has free afterwards, null where that disk is not known.
 */
export interface DeleteResult {
  done?: boolean;
  was_loaded?: boolean;
  digest?: string | null;
  freed_bytes?: number | null;
  free_bytes?: number | null;
}

/**
 * Whole disks, summed, since the sample before.
 */
export interface DiskSample {
  read_bytes_per_second?: number | null;
  write_bytes_per_second?: number | null;
  unavailable?: Record<string, string>;
}

/**
 * It was done.
 */
export interface DoneResult {
  done?: boolean;
}

/**
 * `server.drain`: the server is about to close; dial again no earlier than this.
 */
export interface DrainParams {
  retry_after_s?: number;
}

/**
 * No parameters, or a result that says only that it was done.
 */
export interface Empty {
}

/**
 * `error.data`: the stable word, whether to try again, and scalars for programs.
 */
export interface ErrorData {
  kind: string;
  retryable?: boolean;
  retry_after_ms?: number | null;
  detail?: Record<string, string | number | boolean | null>;
  stream?: StreamEnd | null;
}

/**
 * A failed answer; `id` is null when the request's id could not be read.
 */
export interface ErrorResponse {
  jsonrpc: "2.0";
  id: number | string | null;
  error: WireError;
}

/**
 * `agent.goodbye`: the agent is about to close on purpose.
 */
export interface GoodbyeParams {
  reason: "error" | "reload" | "restart" | "shutdown";
  retry_after_s?: number | null;
}

/**
 * Current clocks. `sm_hertz` is that of the multiprocessors (NVIDIA).
 */
export interface GpuClocks {
  graphics_hertz?: number | null;
  sm_hertz?: number | null;
  memory_hertz?: number | null;
}

/**
 * One GPU.
 *
 * `id` is its UUID, else its PCI address, and is what samples use; `index` is the driver's order of
 * today and identifies nothing. `provider` names the source, `driver` the kernel driver.
 *
 * `shader_cores` counts what the vendor counts (CUDA cores, stream processors, vector engines).
 */
export interface GpuInfo {
  id: string;
  vendor: string;
  provider: string;
  index?: number | null;
  name?: string | null;
  uuid?: string | null;
  pci_address?: string | null;
  integrated?: boolean | null;
  backend?: string | null;
  driver?: string | null;
  driver_version?: string | null;
  vbios_version?: string | null;
  cuda_version?: string | null;
  compute_capability?: string | null;
  gfx_target?: string | null;
  shader_cores?: number | null;
  memory?: GpuMemory;
  pcie?: GpuPcie | null;
  power_limit_watts?: number | null;
  mig?: Mig | null;
  unavailable?: Record<string, string>;
}

/**
 * A GPU's own memory, and that which it may use of the system's.
 *
 * `reserved_bytes` is the part of `total_bytes` that driver and firmware keep. `shared_total_bytes` is
 * another pool, never summed with it. `type` is null where no interface names it.
 */
export interface GpuMemory {
  kind?: "carveout" | "dedicated" | "unified" | null;
  total_bytes?: number | null;
  reserved_bytes?: number | null;
  shared_total_bytes?: number | null;
  bus_width_bits?: number | null;
  type?: string | null;
  unavailable?: Record<string, string>;
}

/**
 * The fastest PCIe link that device and slot allow together.
 */
export interface GpuPcie {
  max_gen?: number | null;
  max_width?: number | null;
}

/**
 * One GPU, as read at `t_mono_ns`.
 *
 * Fans, throttle reasons, PCIe link, ECC and `others_ratio` are read rarely, because drivers serialise on
 * them: they date from `slow_t_mono_ns`. `others_ratio` is the share of the GPU's time that processes
 * other than Ollama's took since the reading before. `power_watts` is the driver's own reading (an average
 * over up to a second on some devices); `energy_joules_total` counts since the driver was loaded.
 * `memory_controller_ratio` is the share of time in which memory was read or written, not the share of
 * memory in use.
 */
export interface GpuSample {
  id: string;
  state: "degraded" | "lost" | "ok" | "stalled" | "suspended";
  t_mono_ns?: number | null;
  slow_t_mono_ns?: number | null;
  utilization_ratio?: number | null;
  others_ratio?: number | null;
  memory_controller_ratio?: number | null;
  memory_used_bytes?: number | null;
  shared_used_bytes?: number | null;
  power_watts?: number | null;
  energy_joules_total?: number | null;
  temperature_celsius?: number | null;
  clocks?: GpuClocks | null;
  throttle_reasons?: ReadonlyArray<string> | null;
  fan_ratio?: number | null;
  pcie_gen?: number | null;
  pcie_width?: number | null;
  ecc_uncorrected?: number | null;
  mig?: ReadonlyArray<MigSample>;
  unavailable?: Record<string, string>;
}

/**
 * `hardware`; `legacy` adds OBT's `HardwareInfo`, derived.
 */
export interface HardwareParams {
  legacy?: boolean;
}

/**
 * Inventory, one fresh sample, and on request OBT's `HardwareInfo`.
 */
export interface HardwareResult {
  inventory: Inventory;
  sample: Sample;
  legacy?: LegacyHardwareInfo | null;
}

/**
 * `hardware.sync`: the inventory, whenever its fingerprint changes.
 */
export interface HardwareSync {
  revision: number;
  page?: Page;
  inventory: Inventory;
}

/**
 * `hardware_watch`: a live series until cancelled; the interval is clamped to what the host allows.
 */
export interface HardwareWatchParams {
  interval_ms?: number;
}

/**
 * `heartbeat`: status every `heartbeat_interval_s`. `t_mono_us` is the agent's monotonic clock.
 *
 * `store_problem` says, for a person, why the agent's store of jobs cannot be used now, or that it was
 * found damaged and replaced.
 */
export interface HeartbeatParams {
  ollama: OllamaState;
  loaded?: ReadonlyArray<string>;
  jobs?: JobCounts;
  outbox?: OutboxCounts;
  streams?: number;
  t_mono_us: number;
  loop_lag_ms?: number | null;
  hardware?: LightSample | null;
  store_problem?: string | null;
}

/**
 * `agent.hello`: the first frame of the agent, at most 32 KiB, within 10 s of the upgrade.
 */
export interface HelloParams {
  protocol: VersionRange;
  agent: AgentIdentity;
  store_id: string;
  capabilities: ReadonlyArray<string>;
  limits?: AgentLimits;
  jobs?: JobCounts;
  outbox?: OutboxCounts;
}

/**
 * The answer to `agent.hello`: it admits the agent.
 *
 * `session` grows with every admission of the agent. `time` is Unix seconds by the server's clock.
 * Without `heartbeat_interval_s` the agent's own setting holds (15 s unless its owner says otherwise).
 * `pins` are the keys that the server's TLS shows now and will show next: an agent that pins keys has
 * these from now on, and any other ignores them.
 */
export interface HelloResult {
  protocol: number;
  session: number;
  heartbeat_interval_s?: number | null;
  stream_credit_bytes?: number;
  link_credit_bytes?: number;
  limits?: ServerLimits;
  server?: ServerIdentity;
  time?: number | null;
  pins?: ReadonlyArray<string>;
}

/**
 * The operating system and what it runs on.
 *
 * `virtualization` names the hypervisor (kvm, vmware, hyperv, xen ...) or is "none"; `container` the
 * container that the agent itself runs in, or "none".
 */
export interface HostInfo {
  os?: string | null;
  distro?: string | null;
  kernel?: string | null;
  arch?: string | null;
  virtualization?: string | null;
  container?: string | null;
  wsl?: boolean | null;
  bios?: Bios | null;
  board?: Board | null;
  ollama_version?: string | null;
  unavailable?: Record<string, string>;
}

/**
 * What is read of `generate`, `chat` and `embed`; the rest goes to Ollama as it came.
 */
export interface InferenceParams {
  model: string;
}

/**
 * One installed model (`/api/tags`), with whether it is loaded (`/api/ps`).
 *
 * `digest` is the model's version: the manifest's sha256 in hexadecimal. `modified_at` is RFC 3339 as
 * Ollama prints it. `remote_host` and `remote_model` are set for stubs whose prompts leave the machine.
 */
export interface InstalledModel {
  name: string;
  digest: string;
  size_bytes: number;
  modified_at?: string | null;
  format?: string | null;
  family?: string | null;
  families?: ReadonlyArray<string>;
  parameter_size?: string | null;
  quantization_level?: string | null;
  context_length?: number | null;
  embedding_length?: number | null;
  capabilities?: ReadonlyArray<string>;
  remote_model?: string | null;
  remote_host?: string | null;
  loaded?: boolean;
}

/**
 * What the machine is.
 *
 * `fingerprint` changes when something of it does, free space and times excepted. `collected_at` is Unix
 * seconds.
 */
export interface Inventory {
  fingerprint: string;
  collected_at: number;
  host?: HostInfo;
  cpu?: CpuInfo;
  memory?: MemoryInfo;
  limits?: CgroupLimits;
  gpus?: ReadonlyArray<GpuInfo>;
  npus?: ReadonlyArray<NpuInfo>;
  storage?: ReadonlyArray<StorageInfo>;
  providers?: ReadonlyArray<ProviderState>;
}

/**
 * One chunk of Ollama's stream, a JSON object that neither side changes.
 *
 * `t_us` is the agent's monotonic arrival time in microseconds since the request was sent to Ollama;
 * `paused_us` is how long reading was paused for want of credit before this item.
 */
export interface Item {
  t_us: number;
  chunk: unknown;
  paused_us?: number | null;
}

/**
 * Jobs not finished, and finished ones whose result the server has not acknowledged.
 */
export interface JobCounts {
  open?: number;
  finished_unacknowledged?: number;
}

/**
 * `job.finished`: the final. `bytes` and `sha256` are those of the JSON text as stored.
 *
 * `result` is that text, as a JSON string, when it fits 24 KiB; else the parts came before. A string, so
 * that a server in any language hashes exactly what was stored without keeping a value's raw bytes.
 */
export interface JobFinishedParams {
  job_id: string;
  kind: "benchmark" | "create" | "pull";
  state: "cancelled" | "completed" | "failed" | "interrupted";
  bytes: number;
  sha256: string;
  encoding?: "gzip" | "identity";
  result?: string | null;
  error?: WireError | null;
}

/**
 * The server's answer after its own commit.
 *
 * Acknowledged when `sha256` equals ours; `resend_from` asks for parts again from that offset;
 * `conflict` says that another result was stored first (ours is set aside and counts as acknowledged).
 */
export interface JobFinishedResult {
  job_id: string;
  sha256?: string | null;
  resend_from?: number | null;
  conflict?: boolean;
}

/**
 * `job.part`: one piece of a result.
 *
 * With `encoding` `identity` `data` is text of the JSON and `offset` counts its UTF-8 bytes; with
 * `gzip` `data` is base64 of a piece of the gzipped text and `offset` counts gzipped bytes.
 * Offset 0 starts anew.
 */
export interface JobPartParams {
  job_id: string;
  offset: number;
  data: string;
  encoding?: "gzip" | "identity";
}

/**
 * The next offset that the server expects, also where the part came at another one and was not kept.
 */
export interface JobPartResult {
  job_id: string;
  next_offset: number;
}

/**
 * How far a running job is. Benchmarks fill the measuring fields, pulls the bytes.
 *
 * `phase` is one of preflight, settling (until the machine is idle), cold_load, warmup, iteration,
 * cooldown, waiting (for an Ollama that went away, for another process's benchmark, and as a transfer for
 * any benchmark), reporting (benchmarks) or Ollama's status line (pulls); queued, with `position`, while
 * other jobs are before it or quiet hours last; and starting. `waiting_for` says in words for what a
 * queued, settling or waiting job waits. `iteration` counts from 1;
 * `iterations_planned` of a plan that goes on until an interval is narrow is an estimate, never under the
 * iterations measured, and may change. `remaining_s` is an estimate, null while there is nothing to base
 * it on.
 *
 * `completed_bytes` and `total_bytes` are sums over the layers that Ollama has named so far, and never
 * fall while a transfer runs. `bytes_per_second` is what came within the last 15 s.
 */
export interface JobProgress {
  phase: string;
  iteration?: number | null;
  iterations_planned?: number | null;
  cell?: string | null;
  tokens_per_second?: number | null;
  first_token_ms?: number | null;
  completed_bytes?: number | null;
  total_bytes?: number | null;
  bytes_per_second?: number | null;
  cpu_utilization_ratio?: number | null;
  gpu_utilization_ratio?: number | null;
  remaining_s?: number | null;
  position?: number | null;
  waiting_for?: string | null;
}

/**
 * `job.progress` (notification, at most 2 a second a job, may be dropped).
 */
export interface JobProgressParams {
  job_id: string;
  state: "accepted" | "cancelled" | "completed" | "failed" | "interrupted" | "queued" | "running";
  progress: JobProgress;
}

/**
 * Answer to `run_benchmark`, `pull_model`, `create_model`: stored, and where it stands.
 */
export interface JobStarted {
  job_id: string;
  state: "accepted" | "cancelled" | "completed" | "failed" | "interrupted" | "queued" | "running";
  position?: number | null;
}

/**
 * One job as `jobs.sync` and `benchmark_status` show it. Times are Unix seconds.
 */
export interface JobSummary {
  job_id: string;
  kind: "benchmark" | "create" | "pull";
  state: "accepted" | "cancelled" | "completed" | "failed" | "interrupted" | "queued" | "running";
  model?: string | null;
  position?: number | null;
  accepted_at?: number | null;
  started_at?: number | null;
  finished_at?: number | null;
  progress?: JobProgress | null;
  error?: WireError | null;
  bytes?: number | null;
  sha256?: string | null;
  acknowledged?: boolean;
}

/**
 * `jobs.sync`: every job that is open, or finished and not acknowledged.
 */
export interface JobsSync {
  revision: number;
  page?: Page;
  store_id: string;
  jobs: ReadonlyArray<JobSummary>;
}

/**
 * Result over 24 KiB: it went before in pieces; size and sha256 (hexadecimal) of the joined text.
 *
 * The text is the whole result, as it would stand here. Where that has a `stream` too, this one counts:
 * the text was made before its own pieces were sent.
 */
export interface LargeFinal {
  bytes: number;
  sha256: string;
  stream: StreamEnd;
}

/**
 * `cpu.core_types` of a processor with two kinds of core, counted as the system schedules on them.
 */
export interface LegacyCoreTypes {
  performance_cores: number;
  efficiency_cores: number;
}

/**
 * `cpu`; clocks in GHz, 0 where unknown.
 */
export interface LegacyCpu {
  name: string;
  architecture: string;
  base_clock: number;
  boost_clock: number | null;
  cores: number;
  threads: number;
  core_types: LegacyCoreTypes | null;
  features: ReadonlyArray<string>;
}

/**
 * `firmware`.
 */
export interface LegacyFirmware {
  bios_version: string;
  bios_vendor: string;
  bios_release_date: string;
  cpu_microcode: string;
  os_name: string;
  os_version: string;
  os_kernel: string;
  ollama_version: string;
}

/**
 * One of `gpus`.
 *
 * `vram_size` is in MB (of unified memory, what it shares), else 0; `pcie_width` is a word like `x16`.
 */
export interface LegacyGpu {
  name: string;
  vram_size: number;
  vram_type: string;
  tensor_cores: number | null;
  cuda_cores: number | null;
  compute_capability: string | null;
  pcie_gen: number | null;
  pcie_width: string | null;
  index: number;
}

/**
 * OBT's `HardwareInfo`; `total_memory` in MB, `npu` the first of several.
 */
export interface LegacyHardwareInfo {
  cpu: LegacyCpu;
  gpus: ReadonlyArray<LegacyGpu>;
  ram: LegacyRam;
  npu: LegacyNpu | null;
  total_memory: number;
  firmware: LegacyFirmware;
}

/**
 * One of `ram.modules`; size in MB, speed in MT/s.
 */
export interface LegacyModule {
  size: number;
  speed: number;
  location: string;
  type: string;
}

/**
 * `npu`; no source says what it computes, so that its name is all that is ever given.
 */
export interface LegacyNpu {
  name: string | null;
  compute_power?: number | null;
  precision_support?: ReadonlyArray<string> | null;
  dedicated?: boolean | null;
}

/**
 * `ram`; `channels` counts those that the slots' names tell of, 0 where they tell of none.
 */
export interface LegacyRam {
  speed: number;
  type: string;
  channels: number;
  modules: ReadonlyArray<LegacyModule>;
}

/**
 * One GPU in the heartbeat.
 */
export interface LightGpu {
  id: string;
  state: string;
  utilization_ratio?: number | null;
  memory_used_bytes?: number | null;
  temperature_celsius?: number | null;
  power_watts?: number | null;
}

/**
 * The heartbeat's hardware sample: the few figures that a list of machines shows.
 */
export interface LightSample {
  cpu_utilization_ratio?: number | null;
  cpu_temperature_celsius?: number | null;
  memory_used_bytes?: number | null;
  memory_available_bytes?: number | null;
  gpus?: ReadonlyArray<LightGpu>;
}

/**
 * `link.credit`: the server takes this many more UTF-8 bytes of everything that is not control.
 */
export interface LinkCredit {
  bytes: number;
}

/**
 * The link since the process started; `connected_s` of this session.
 *
 * `pins`: the server must show one of these keys; empty where its certificate's authority decides.
 */
export interface LinkStatistics {
  session?: number | null;
  connected_s?: number;
  admissions?: number;
  dials?: number;
  bytes_sent?: number;
  bytes_received?: number;
  frames_sent?: number;
  frames_received?: number;
  last_disconnect?: string | null;
  loop_lag_ms_max?: number;
  pins?: ReadonlyArray<string>;
}

/**
 * `list_models`; `refresh` asks Ollama now; else the catalogue (up to 2 s old) answers.
 */
export interface ListModelsParams {
  refresh?: boolean;
}

/**
 * Installed models that the policy shows, and the digest of the list.
 */
export interface ListModelsResult {
  models: ReadonlyArray<InstalledModel>;
  list_digest: string;
  ollama: OllamaState;
}

/**
 * `load_model`. `keep_alive` is Ollama's (seconds or a duration like "10m").
 */
export interface LoadModelParams {
  model: string;
  keep_alive?: string | number | null;
  options?: unknown;
}

/**
 * State after a load or unload and the wall time that it took, in milliseconds.
 */
export interface LoadResult {
  model: string;
  loaded: boolean;
  wall_ms: number;
  running?: ReadonlyArray<RunningModel>;
}

/**
 * The system's memory. `type` and `speed_mt_s` are given where all modules agree.
 */
export interface MemoryInfo {
  total_bytes?: number | null;
  swap_total_bytes?: number | null;
  type?: string | null;
  speed_mt_s?: number | null;
  modules?: ReadonlyArray<MemoryModule>;
  unavailable?: Record<string, string>;
}

/**
 * One populated slot (DMI type 17). `speed_mt_s` is the configured speed (megatransfers per second).
 */
export interface MemoryModule {
  size_bytes?: number | null;
  type?: string | null;
  speed_mt_s?: number | null;
  locator?: string | null;
  bank?: string | null;
}

/**
 * System memory.
 *
 * `available_bytes` is the kernel's estimate of what a program can still get; `used_bytes` is total less
 * available, so that page cache does not count as used. `cgroup_available_bytes` is the same within the
 * tightest control group of Ollama's process, null with no reason where none limits it.
 */
export interface MemorySample {
  used_bytes?: number | null;
  available_bytes?: number | null;
  swap_used_bytes?: number | null;
  cgroup_available_bytes?: number | null;
  unavailable?: Record<string, string>;
}

/**
 * Multi-Instance GPU: whether it is on, and its instances.
 */
export interface Mig {
  enabled: boolean;
  max_instances?: number | null;
  instances?: ReadonlyArray<MigInstance>;
}

/**
 * One MIG device: a part of an NVIDIA GPU that programs see as a GPU of its own. `id` is its UUID.
 */
export interface MigInstance {
  id: string;
  name?: string | null;
  gpu_instance_id?: number | null;
  compute_instance_id?: number | null;
  multiprocessors?: number | null;
  memory_total_bytes?: number | null;
}

/**
 * One MIG device's memory.
 */
export interface MigSample {
  id: string;
  memory_used_bytes?: number | null;
}

/**
 * `models.sync`: every model that the policy shows, with Ollama's state.
 *
 * `revision` restarts with each session and grows with every sync; `list_digest` is a sha256 over names
 * and digests, equal exactly when the list is. When Ollama is unreachable `models` is the last known list
 * and `stale` is true.
 */
export interface ModelsSync {
  revision: number;
  page?: Page;
  ollama: OllamaState;
  list_digest: string;
  models: ReadonlyArray<InstalledModel>;
  running?: ReadonlyArray<RunningModel>;
  stale?: boolean;
}

/**
 * Network interfaces but loopback, summed, since the sample before.
 */
export interface NetworkSample {
  receive_bytes_per_second?: number | null;
  transmit_bytes_per_second?: number | null;
  unavailable?: Record<string, string>;
}

/**
 * A notification: it has no id, and no answer. `params` may be left out, which is `{}`.
 */
export interface Notification {
  jsonrpc: "2.0";
  method: string;
  params?: Record<string, unknown>;
}

/**
 * One neural processing unit. No provider finds any yet.
 */
export interface NpuInfo {
  id: string;
  vendor?: string | null;
  name?: string | null;
  driver?: string | null;
}

/**
 * One of Ollama's processes.
 *
 * `server_pid` is the server that a runner belongs to, `blob` the digest of the weights in a runner's
 * command line, `port` where a server listens: null where the system keeps its environment from the
 * agent. `cpu_ratio` is in whole cores since the sample before; `gpu_memory_bytes` is what the driver
 * attributes to this process, by GPU id. A reason for it in `unavailable` says why some may be missing.
 */
export interface OllamaProcess {
  pid: number;
  role: "runner" | "server";
  server_pid?: number | null;
  port?: number | null;
  blob?: string | null;
  cpu_ratio?: number | null;
  rss_bytes?: number | null;
  gpu_memory_bytes?: Record<string, number>;
  unavailable?: Record<string, string>;
}

/**
 * Whether Ollama answers; `since` is Unix seconds of the last change of `reachable`.
 */
export interface OllamaState {
  reachable: boolean;
  version?: string | null;
  since?: number | null;
  error?: string | null;
}

/**
 * What waits in the agent's store for this server.
 */
export interface OutboxCounts {
  entries?: number;
  bytes?: number;
}

/**
 * Where a page stands in a full state: `index` from 0, `last` on the last one.
 *
 * A receiver replaces its copy when it has all pages of one `revision`.
 */
export interface Page {
  index?: number;
  last?: boolean;
}

/**
 * One benchmark.
 *
 * OBT's own fields:
 *     model_name, prompt_config, num_iterations (least number of measured iterations of each cell),
 *     temperature, top_p, top_k, repeat_penalty, hardware.
 * Added:
 *     prompts: several prompts, each a cell of its own; then `prompt_config` must be absent. With neither,
 *         a synthetic prompt of 512 tokens and 128 tokens of answer.
 *     seed, think, raw: as Ollama has them; `raw` defaults to true for synthetic prompts only.
 *     num_ctx: always sent, so that a run never depends on Ollama's default; when null the agent picks the
 *         least multiple of 1,024, at least 4,096, that holds every cell.
 *     num_gpu, num_thread, keep_alive: as Ollama has them.
 *     warmup_iterations: exactly so many; null means 2 to 4, until two agree within 5 %.
 *     max_iterations: when above `num_iterations`, a cell goes on until `target_ci` and
 *         `min_duration_s` are met or this many were measured. Null means `num_iterations`.
 *     min_duration_s: least seconds of measured generation in a cell that may go on.
 *     target_ci: widest 95 % interval of decode speed and TTFT, whole width over mean.
 *     cooldown_s: longest wait before an iteration for the temperature to come down to start + 5 °C.
 *     cold_load: unload first and wall-time the load.
 *     cache_mode: `bust` opens every prompt with a nonce that is never used again; `warm` repeats one
 *         prompt on purpose; `pair` runs each prompt twice, uncached and cached.
 *     sweep: see `Sweep`.
 *     sample_interval_ms: of the hardware's samples while measuring.
 *     alternate_sampling: sample only every other iteration and report what sampling costs.
 *     timeout_s: longest single request.
 *     max_duration_s: longest whole run; what was measured until then is kept.
 *     settle: see `Settle`; null begins at once.
 */
export interface Plan {
  model_name: string;
  prompt_config?: PromptConfig | null;
  num_iterations?: number;
  temperature?: number;
  top_p?: number;
  top_k?: number;
  repeat_penalty?: number;
  hardware?: PlanHardware;
  prompts?: ReadonlyArray<PromptConfig>;
  seed?: number | null;
  think?: boolean | "high" | "low" | "medium" | null;
  raw?: boolean | null;
  num_ctx?: number | null;
  num_gpu?: number | null;
  num_thread?: number | null;
  keep_alive?: string | number;
  warmup_iterations?: number | null;
  max_iterations?: number | null;
  min_duration_s?: number;
  target_ci?: number;
  cooldown_s?: number;
  cold_load?: boolean;
  cache_mode?: "bust" | "pair" | "warm";
  sweep?: Sweep;
  sample_interval_ms?: number;
  alternate_sampling?: boolean;
  timeout_s?: number;
  max_duration_s?: number;
  settle?: Settle | null;
}

/**
 * OBT's `hardware`: `use_gpu` false sends `num_gpu: 0`, `gpu_id` sends `main_gpu`.
 */
export interface PlanHardware {
  use_gpu?: boolean;
  gpu_id?: number | null;
}

/**
 * Shares of the time since the sample before in which something on the machine waited.
 *
 * For a CPU, for memory that had to be got back first, and for I/O: the kernel's pressure stall information,
 * its lines "some".
 */
export interface PressureSample {
  cpu_ratio?: number | null;
  memory_ratio?: number | null;
  io_ratio?: number | null;
  unavailable?: Record<string, string>;
}

/**
 * The agent's own cost: CPU seconds since start, resident bytes.
 */
export interface ProcessUse {
  cpu_s: number;
  rss_bytes: number;
  threads: number;
}

/**
 * One prompt and how many tokens to generate for it.
 *
 * Exactly one of `prompt` (a text), `prompt_name` (one of the agent's own) and `prompt_tokens` (a
 * synthetic prompt of that many tokens) is given; none or several of them are refused with the field's path.
 * `completion_tokens` becomes Ollama's `num_predict`.
 */
export interface PromptConfig {
  prompt?: string | null;
  suite_name?: string | null;
  prompt_name?: string | null;
  prompt_tokens?: number | null;
  completion_tokens?: number;
}

/**
 * One source of readings.
 *
 * `reason` says for a person why it is not ok. `verified` tells whether what it reads was ever compared
 * with another tool on such hardware; otherwise it rests on documents and recorded trees.
 */
export interface ProviderState {
  name: string;
  status: "absent" | "degraded" | "lost" | "ok" | "stalled" | "suspended";
  reason?: string | null;
  version?: string | null;
  verified?: boolean;
}

/**
 * `pull_model`, a job with progress in bytes.
 *
 * `digest` is the version that it is to give: a model that has it already is not fetched, and a pull that
 * gives another one fails as `digest_differs`.
 */
export interface PullModelParams {
  job_id: string;
  model: string;
  digest?: string | null;
  not_after?: number | null;
}

/**
 * A request, answered once. `params` may be left out, which is `{}`.
 */
export interface Request {
  jsonrpc: "2.0";
  id: number | string;
  method: string;
  params?: Record<string, unknown>;
}

export type RequestId = number | string;

/**
 * One tick of the run's live series.
 *
 * `t_ms` and `n` count from the start of the run, or from where it went on after the agent's restart.
 * `tokens_per_second` is of the last second of the running iteration: lines of the stream, by the tokens
 * that a line held in the answer before (1 during the first answer of a run).
 */
export interface ResourceSample {
  n: number;
  t_ms: number;
  phase: "cold_load" | "cooldown" | "iteration" | "preflight" | "reporting" | "settling" | "waiting" | "warmup";
  cell?: number | null;
  iteration?: number | null;
  tokens_per_second?: number | null;
  cpu_percent?: number | null;
  cpu_temperature?: number | null;
  memory_used_mb?: number | null;
  ollama_cpu_percent?: number | null;
  ollama_rss_mb?: number | null;
  gpu_percent?: number | null;
  gpu_memory_used_mb?: number | null;
  gpu_power_watts?: number | null;
  gpu_temperature?: number | null;
  gpu_clock_mhz?: number | null;
}

/**
 * A successful answer. `id` is that of the request.
 */
export interface Response {
  jsonrpc: "2.0";
  id: number | string;
  result: Record<string, unknown>;
}

/**
 * `credentials.rotate`: make a candidate credential and use it at the next dial.
 */
export interface RotateParams {
  rotation_id: string;
}

/**
 * The candidate is stored (fsync done); `sha256` is its hash in hexadecimal.
 */
export interface RotateResult {
  rotation_id: string;
  sha256: string;
}

/**
 * `run_benchmark`: `job_id` is the idempotency key; `not_after` (Unix seconds) the latest start.
 */
export interface RunBenchmarkParams {
  job_id: string;
  plan: Plan;
  not_after?: number | null;
}

/**
 * One loaded model (`/api/ps`).
 *
 * `size_bytes` is Ollama's estimate of the whole, `size_vram_bytes` of the part on GPUs (0 on a CPU).
 * `expires_at` is RFC 3339; a model kept for ever expires in a far year.
 */
export interface RunningModel {
  name: string;
  digest: string;
  size_bytes: number;
  size_vram_bytes: number;
  context_length?: number | null;
  expires_at?: string | null;
  parameter_size?: string | null;
  quantization_level?: string | null;
}

/**
 * `running_models`.
 */
export interface RunningModelsResult {
  models: ReadonlyArray<RunningModel>;
}

/**
 * What the machine does. `t_wall` is Unix seconds, `t_mono_ns` the agent's monotonic clock.
 */
export interface Sample {
  t_wall: number;
  t_mono_ns: number;
  sampler?: SamplerSample | null;
  cpu?: CpuSample;
  memory?: MemorySample;
  pressure?: PressureSample;
  disk?: DiskSample;
  network?: NetworkSample;
  gpus?: ReadonlyArray<GpuSample>;
  ollama?: ReadonlyArray<OllamaProcess>;
}

/**
 * What this sample cost.
 *
 * `duration_us` from first to last reading, `cpu_us` of processor time; `missed` ticks since the
 * sampler started; `cpu_ratio` is the sampler's share of one core since the sample before.
 */
export interface SamplerSample {
  duration_us: number;
  cpu_us?: number;
  missed?: number;
  cpu_ratio?: number | null;
}

/**
 * Result of a live series that was cancelled or came to its end.
 */
export interface SeriesFinal {
  interval_ms?: number | null;
  stream: StreamEnd;
}

/**
 * One item of a live series.
 *
 * `n` counts samples taken. `missed` counts, since the series began, samples that came too late and
 * those that a newer one replaced for want of credit.
 */
export interface SeriesItem {
  t_us: number;
  n: number;
  missed?: number;
  sample: unknown;
}

/**
 * Who answers.
 */
export interface ServerIdentity {
  name?: string;
  version?: string;
}

/**
 * What the server takes at most; all optional.
 */
export interface ServerLimits {
  max_frame_bytes?: number;
  max_in_flight?: number;
}

/**
 * What to wait for before anything is measured: a machine that nobody else uses, and that has cooled.
 *
 * CPU and GPU must have been no busier than `cpu_percent` and `gpu_percent` for `idle_for_s`. After
 * `max_wait_s` the run goes on with a warning, or with `if_busy: fail` ends as busy.
 */
export interface Settle {
  idle_for_s?: number;
  max_wait_s?: number;
  cpu_percent?: number;
  gpu_percent?: number;
  if_busy?: "fail" | "measure";
}

/**
 * `show_model`: Ollama's metadata, paths of the host removed; `verbose` adds tokenizer tables.
 */
export interface ShowModelParams {
  model: string;
  verbose?: boolean;
}

/**
 * `state.request`: send these states again in full.
 */
export interface StateRequest {
  kinds: ReadonlyArray<"hardware" | "jobs" | "models">;
}

/**
 * A file system that matters: `purpose` is "models" for Ollama's model store. No path is given.
 *
 * `found_by` says what the store's place rests on: Ollama's own `setting`, the `home` of its user, or
 * a `usual_place` of its packages. The last two are wrong where OLLAMA_MODELS is set and cannot be seen.
 * `kind` is nvme, ssd, hdd, mmc (SD cards, eMMC), virtual, network or memory. `free_bytes` is what an
 * unprivileged user may fill, as of `collected_at`; it takes no part in the fingerprint.
 */
export interface StorageInfo {
  purpose: string;
  found_by?: "home" | "setting" | "usual_place" | null;
  filesystem?: string | null;
  kind?: string | null;
  model?: string | null;
  total_bytes?: number | null;
  free_bytes?: number | null;
  unavailable?: Record<string, string>;
}

/**
 * `stream.credit`: the server takes this many more UTF-8 bytes of `stream.data` on one stream.
 */
export interface StreamCredit {
  id: number | string;
  bytes: number;
}

/**
 * `stream.data`: either `items`, or `part` (a text piece of one large item or result).
 *
 * `more` is false on a joined text's last piece.
 */
export interface StreamData {
  id: number | string;
  seq: number;
  items?: ReadonlyArray<unknown> | null;
  part?: string | null;
  more?: boolean;
}

/**
 * How far a stream had come when it ended.
 *
 * `next_seq` is the `seq` that the next `stream.data` would have had: how many there were. `dropped`
 * counts samples of a live series that a newer one replaced for want of credit; 0 for every other stream.
 */
export interface StreamEnd {
  next_seq: number;
  dropped?: number;
}

/**
 * Result of a streamed command: Ollama's last object and its arrival time.
 */
export interface StreamFinal {
  final: unknown;
  t_us: number;
  stream: StreamEnd;
}

/**
 * `streams.alive`: ids of the streams that the server still reads.
 */
export interface StreamsAlive {
  ids: ReadonlyArray<number | string>;
}

/**
 * Dimensions to cross. An empty one keeps the plan's single value.
 *
 * `prompt_tokens` replaces the length of the plan's synthetic prompts.
 */
export interface Sweep {
  prompt_tokens?: ReadonlyArray<number>;
  num_ctx?: ReadonlyArray<number>;
  concurrency?: ReadonlyArray<number>;
}

/**
 * Any result acknowledges a sync; ours repeats the revision.
 */
export interface SyncResult {
  revision?: number | null;
}

/**
 * `unload_model`.
 */
export interface UnloadModelParams {
  model: string;
}

/**
 * Protocol versions that a side speaks, both ends included.
 */
export interface VersionRange {
  min: number;
  max: number;
}

/**
 * A JSON-RPC error object.
 */
export interface WireError {
  code: number;
  message: string;
  data?: ErrorData | null;
}

/** What the agent sends, by method. Requests alone have results; `item` streams. */
export interface AgentMethods {
  "agent.hello": { params: HelloParams; result: HelloResult; item: never };
  "models.sync": { params: ModelsSync; result: SyncResult; item: never };
  "hardware.sync": { params: HardwareSync; result: SyncResult; item: never };
  "jobs.sync": { params: JobsSync; result: SyncResult; item: never };
  "job.part": { params: JobPartParams; result: JobPartResult; item: never };
  "job.finished": { params: JobFinishedParams; result: JobFinishedResult; item: never };
  "job.progress": { params: JobProgressParams; result: never; item: never };
  "heartbeat": { params: HeartbeatParams; result: never; item: never };
  "stream.data": { params: StreamData; result: never; item: never };
  "agent.goodbye": { params: GoodbyeParams; result: never; item: never };
  "link.alive": { params: Empty; result: never; item: never };
}

/** What the server sends, by method. Requests alone have results; `item` streams. */
export interface ServerMethods {
  "list_models": { params: ListModelsParams; result: ListModelsResult; item: never };
  "show_model": { params: ShowModelParams; result: Record<string, unknown>; item: never };
  "running_models": { params: Empty; result: RunningModelsResult; item: never };
  "hardware": { params: HardwareParams; result: HardwareResult; item: never };
  "hardware_watch": { params: HardwareWatchParams; result: SeriesFinal; item: SeriesItem & { sample?: Sample; } };
  "generate": { params: InferenceParams & Record<string, unknown>; result: StreamFinal; item: Item };
  "chat": { params: InferenceParams & Record<string, unknown>; result: StreamFinal; item: Item };
  "embed": { params: InferenceParams & Record<string, unknown>; result: Record<string, unknown>; item: never };
  "load_model": { params: LoadModelParams; result: LoadResult; item: never };
  "unload_model": { params: UnloadModelParams; result: LoadResult; item: never };
  "run_benchmark": { params: RunBenchmarkParams; result: JobStarted; item: never };
  "benchmark_status": { params: BenchmarkStatusParams; result: BenchmarkStatusResult; item: never };
  "benchmark_metrics": { params: BenchmarkMetricsParams; result: SeriesFinal; item: SeriesItem & { sample?: ResourceSample; } };
  "pull_model": { params: PullModelParams; result: JobStarted; item: never };
  "create_model": { params: CreateModelParams; result: JobStarted; item: never };
  "copy_model": { params: CopyModelParams; result: DoneResult; item: never };
  "delete_model": { params: DeleteModelParams; result: DeleteResult; item: never };
  "cancel": { params: CancelParams; result: CancelResult; item: never };
  "agent_info": { params: Empty; result: AgentInfoResult; item: never };
  "stream.credit": { params: StreamCredit; result: never; item: never };
  "link.credit": { params: LinkCredit; result: never; item: never };
  "streams.alive": { params: StreamsAlive; result: never; item: never };
  "state.request": { params: StateRequest; result: Empty; item: never };
  "blob.put": { params: BlobPut; result: BlobPutResult; item: never };
  "credentials.rotate": { params: RotateParams; result: RotateResult; item: never };
  "server.drain": { params: DrainParams; result: never; item: never };
}

/** The fields that the parameters of each method must have. */
export const REQUIRED: Readonly<Record<string, readonly string[]>> = {
  "list_models": [],
  "show_model": ["model"],
  "running_models": [],
  "hardware": [],
  "hardware_watch": [],
  "generate": ["model"],
  "chat": ["model"],
  "embed": ["model"],
  "load_model": ["model"],
  "unload_model": ["model"],
  "run_benchmark": ["job_id", "plan"],
  "benchmark_status": ["job_id"],
  "benchmark_metrics": ["job_id"],
  "pull_model": ["job_id", "model"],
  "create_model": ["job_id", "model", "from"],
  "copy_model": ["source", "destination"],
  "delete_model": ["model"],
  "cancel": [],
  "agent_info": [],
  "agent.hello": ["protocol", "agent", "store_id", "capabilities"],
  "models.sync": ["revision", "ollama", "list_digest", "models"],
  "hardware.sync": ["revision", "inventory"],
  "jobs.sync": ["revision", "store_id", "jobs"],
  "job.part": ["job_id", "offset", "data"],
  "job.finished": ["job_id", "kind", "state", "bytes", "sha256"],
  "job.progress": ["job_id", "state", "progress"],
  "heartbeat": ["ollama", "t_mono_us"],
  "stream.data": ["id", "seq"],
  "agent.goodbye": ["reason"],
  "link.alive": [],
  "stream.credit": ["id", "bytes"],
  "link.credit": ["bytes"],
  "streams.alive": ["ids"],
  "state.request": ["kinds"],
  "blob.put": ["blob", "offset", "data"],
  "credentials.rotate": ["rotation_id"],
  "server.drain": [],
};

/** JSON-RPC's code of each kind of error. */
export const ERROR_CODES: Readonly<Record<string, number>> = {
  "parse_error": -32700,
  "invalid_request": -32600,
  "unknown_method": -32601,
  "invalid_params": -32602,
  "internal": -32603,
  "ollama_unavailable": -32001,
  "model_not_found": -32002,
  "busy": -32003,
  "cancelled": -32004,
  "not_permitted": -32005,
  "timeout": -32006,
  "ollama_error": -32007,
  "too_large": -32008,
  "job_not_found": -32009,
  "unsupported": -32010,
  "stream_incomplete": -32011,
  "job_conflict": -32012,
  "storage_full": -32013,
  "link_lost": -32014,
  "storage_failed": -32015,
  "storage_low": -32016,
  "digest_differs": -32017
};
