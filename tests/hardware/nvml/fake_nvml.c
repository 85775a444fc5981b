/* A libnvidia-ml.so.1 that says what a text file beside it ("nvml.txt") tells it to. The file is read at each call,
 * so that a test changes what the driver does by writing it anew.
 *
 *   <gpu|*> <symbol> <value>          what a call gives; a symbol that is not named is not supported
 *   <gpu|*> ret:<symbol|*> <code>     a call fails with this nvmlReturn
 *   *       sleep:<symbol> <ms>       a call takes this long
 *   *       hang:<symbol> 1           a call does not come back while this line stands
 *   *       crash:<symbol> 1          a call kills its process
 *
 * MIG instance i of GPU g is "GPU" 100 + 10 g + i. Built with -DOLD_DRIVER, it lacks what drivers of 2019 lacked.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned int u32;
typedef unsigned long long u64;
typedef void *dev;

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT = 7, BAD_VERSION = 25 };

static int initialised;

static const char *script_path(void) {
    static char path[4096];
    if (!path[0]) {
        Dl_info info;
        if (!dladdr((void *)&script_path, &info)) return "";
        snprintf(path, sizeof path, "%s", info.dli_fname);
        char *slash = strrchr(path, '/');
        snprintf(slash ? slash + 1 : path, 16, "nvml.txt");
    }
    return path;
}

static const char *look_up(int gpu, const char *key, char *buffer, size_t size) {
    FILE *script = fopen(script_path(), "r");
    if (!script) return NULL;
    char line[1024], who[16], name[128];
    const char *found = NULL;
    int at;
    while (fgets(line, sizeof line, script)) {
        if (line[0] == '#' || sscanf(line, "%15s %127s %n", who, name, &at) < 2 || strcmp(name, key)) continue;
        if (who[0] != '*' && atoi(who) != gpu) continue;
        snprintf(buffer, size, "%s", line + at);
        buffer[strcspn(buffer, "\r\n")] = 0;
        found = buffer;
    }
    fclose(script);
    return found;
}

static int number_of(dev device) { return (int)(intptr_t)device - 1; }

/* What the script says of the call before it answers: take time, hang, crash, fail. */
static int gate(int gpu, const char *symbol) {
    char key[160], text[1024];
    const char *value;
    snprintf(key, sizeof key, "sleep:%s", symbol);
    if ((value = look_up(gpu, key, text, sizeof text))) usleep(1000u * (u32)atoi(value));
    snprintf(key, sizeof key, "hang:%s", symbol);
    while (look_up(gpu, key, text, sizeof text)) usleep(5000);
    snprintf(key, sizeof key, "crash:%s", symbol);
    if (look_up(gpu, key, text, sizeof text)) raise(SIGSEGV);
    snprintf(key, sizeof key, "ret:%s", symbol);
    if ((value = look_up(gpu, key, text, sizeof text))) return atoi(value);
    if (gpu >= 0 && (value = look_up(gpu, "ret:*", text, sizeof text))) return atoi(value);
    return initialised ? OK : UNINITIALIZED;
}

static int number(int gpu, const char *symbol, u64 *out) {
    char text[1024];
    int code = gate(gpu, symbol);
    if (code) return code;
    const char *value = look_up(gpu, symbol, text, sizeof text);
    if (!value) return NOT_SUPPORTED;
    *out = strtoull(value, NULL, 0);
    return OK;
}

static int word(int gpu, const char *symbol, char *out, u32 size) {
    char text[1024];
    int code = gate(gpu, symbol);
    if (code) return code;
    const char *value = look_up(gpu, symbol, text, sizeof text);
    if (!value) return NOT_SUPPORTED;
    if (strlen(value) + 1 > size) return INSUFFICIENT;
    strcpy(out, value);
    return OK;
}

static int typed(int gpu, const char *symbol, u32 type, u32 *out) {
    char key[160];
    u64 value;
    int code = gate(gpu, symbol);
    if (code) return code;
    snprintf(key, sizeof key, "%s.%u", symbol, type);
    code = number(gpu, key, &value);
    if (!code) *out = (u32)value;
    return code;
}

#define U32(name) int name(dev d, u32 *out) { u64 v; int r = number(number_of(d), #name, &v); if (!r) *out = (u32)v; return r; }
#define U64(name) int name(dev d, u64 *out) { return number(number_of(d), #name, out); }
#define TYPED(name) int name(dev d, u32 type, u32 *out) { return typed(number_of(d), #name, type, out); }
#define WORD(name) int name(dev d, char *out, u32 size) { return word(number_of(d), #name, out, size); }
#define SYSTEM_WORD(name) int name(char *out, u32 size) { return word(-1, #name, out, size); }

static int initialise(void) {
    initialised = 1;
    int code = gate(-1, "nvmlInit");
    if (code) initialised = 0;
    return code;
}
int nvmlInitWithFlags(u32 flags) { (void)flags; return initialise(); }
int nvmlInit_v2(void) { return initialise(); }
int nvmlShutdown(void) { int code = gate(-1, "nvmlShutdown"); initialised = 0; return code; }
const char *nvmlErrorString(int code) { (void)code; return "scripted"; }

SYSTEM_WORD(nvmlSystemGetDriverVersion)
int nvmlSystemGetCudaDriverVersion_v2(int *out) {
    u64 v;
    int r = number(-1, "nvmlSystemGetCudaDriverVersion_v2", &v);
    if (!r) *out = (int)v;
    return r;
}
int nvmlDeviceGetCount_v2(u32 *out) {
    u64 v;
    int r = number(-1, "nvmlDeviceGetCount_v2", &v);
    if (!r) *out = (u32)v;
    return r;
}
int nvmlDeviceGetHandleByIndex_v2(u32 index, dev *out) {
    u64 count = 0;
    int r = number(-1, "nvmlDeviceGetCount_v2", &count);
    if (r) return r;
    if (index >= count) return INVALID;
    r = gate((int)index, "nvmlDeviceGetHandleByIndex_v2");
    if (!r) *out = (dev)(intptr_t)(index + 1);
    return r;
}

WORD(nvmlDeviceGetName) WORD(nvmlDeviceGetUUID) WORD(nvmlDeviceGetSerial) WORD(nvmlDeviceGetVbiosVersion)
U32(nvmlDeviceGetNumGpuCores) U32(nvmlDeviceGetMemoryBusWidth)
U32(nvmlDeviceGetMaxPcieLinkGeneration) U32(nvmlDeviceGetMaxPcieLinkWidth)
U32(nvmlDeviceGetCurrPcieLinkGeneration) U32(nvmlDeviceGetCurrPcieLinkWidth)
U32(nvmlDeviceGetEnforcedPowerLimit) U32(nvmlDeviceGetPowerUsage) U32(nvmlDeviceGetFanSpeed)
U32(nvmlDeviceGetMaxMigDeviceCount) U32(nvmlDeviceGetGpuInstanceId) U32(nvmlDeviceGetComputeInstanceId)
U64(nvmlDeviceGetTotalEnergyConsumption) U64(nvmlDeviceGetCurrentClocksThrottleReasons)
TYPED(nvmlDeviceGetTemperature) TYPED(nvmlDeviceGetClockInfo)

int nvmlDeviceGetCudaComputeCapability(dev d, int *major, int *minor) {
    char text[64];
    int r = word(number_of(d), "nvmlDeviceGetCudaComputeCapability", text, sizeof text);
    if (!r) sscanf(text, "%d.%d", major, minor);
    return r;
}
int nvmlDeviceGetUtilizationRates(dev d, u32 *out) {
    char text[64];
    int r = word(number_of(d), "nvmlDeviceGetUtilizationRates", text, sizeof text);
    if (!r) sscanf(text, "%u %u", &out[0], &out[1]);
    return r;
}
/* "total used reserved"; the first version counts what is reserved as used */
int nvmlDeviceGetMemoryInfo(dev d, u64 *out) {
    char text[128];
    u64 total = 0, used = 0, reserved = 0;
    int r = word(number_of(d), "nvmlDeviceGetMemoryInfo", text, sizeof text);
    if (r) return r;
    sscanf(text, "%llu %llu %llu", &total, &used, &reserved);
    out[0] = total;
    out[2] = used + reserved;
    out[1] = out[0] - out[2];
    return OK;
}
int nvmlDeviceGetTotalEccErrors(dev d, u32 type, u32 counter, u64 *out) {
    (void)type, (void)counter;
    return number(number_of(d), "nvmlDeviceGetTotalEccErrors", out);
}
typedef struct { char legacy[16]; u32 domain, bus, device, device_id, subsystem; char id[32]; } pci_info;
int nvmlDeviceGetPciInfo_v3(dev d, pci_info *out) {
    char text[64];
    int r = word(number_of(d), "nvmlDeviceGetPciInfo", text, sizeof text);
    if (r) return r;
    memset(out, 0, sizeof *out);
    snprintf(out->id, sizeof out->id, "%.31s", text);
    snprintf(out->legacy, sizeof out->legacy, "%.15s", text);
    return OK;
}

/* "pid:bytes pid:bytes ..."; none when the script does not name the symbol, as from a driver with nothing to tell */
typedef struct { u32 pid; u64 bytes; u32 gpu_instance, compute_instance; } process;
static int processes(dev d, u32 *count, process *out) {
    char text[1024];
    int r = word(number_of(d), "nvmlDeviceGetComputeRunningProcesses", text, sizeof text), length;
    if (r == NOT_SUPPORTED) { *count = 0; return OK; }
    if (r) return r;
    process found[32];
    u32 n = 0;
    u64 pid, bytes;
    for (char *at = text; n < 32 && sscanf(at, " %llu:%llu%n", &pid, &bytes, &length) == 2; at += length)
        found[n++] = (process){(u32)pid, bytes, ~0u, ~0u};
    if (n == 0) { *count = 0; return OK; }
    if (!out || *count < n) { *count = n; return INSUFFICIENT; }
    memcpy(out, found, n * sizeof(process));
    *count = n;
    return OK;
}
/* "pid:percent pid:percent ...": of the multiprocessors' time; the driver finds nothing where the line is empty */
typedef struct { u32 pid; u64 timestamp; u32 sm, memory, encoder, decoder; } share;
int nvmlDeviceGetProcessUtilization(dev d, share *out, u32 *count, u64 since) {
    (void)since;
    char text[1024];
    int r = word(number_of(d), "nvmlDeviceGetProcessUtilization", text, sizeof text), length;
    if (r) return r;
    share found[32];
    u32 n = 0, pid, percent;
    for (char *at = text; n < 32 && sscanf(at, " %u:%u%n", &pid, &percent, &length) == 2; at += length)
        found[n++] = (share){pid, 0, percent, 0, 0, 0};
    if (n == 0) { *count = 0; return NOT_FOUND; }
    if (!out || *count < n) { *count = n; return INSUFFICIENT; }
    memcpy(out, found, n * sizeof(share));
    *count = n;
    return OK;
}
int nvmlDeviceGetComputeRunningProcesses_v2(dev d, u32 *count, process *out) { return processes(d, count, out); }

#ifndef OLD_DRIVER
int nvmlDeviceGetComputeRunningProcesses_v3(dev d, u32 *count, process *out) { return processes(d, count, out); }

typedef struct { u32 version; u64 total, reserved, free, used; } memory_v2;
int nvmlDeviceGetMemoryInfo_v2(dev d, memory_v2 *out) {
    char text[128];
    int r = word(number_of(d), "nvmlDeviceGetMemoryInfo", text, sizeof text);
    if (out->version != (sizeof(memory_v2) | (2u << 24))) return BAD_VERSION;
    if (r) return r;
    out->reserved = 0;
    sscanf(text, "%llu %llu %llu", &out->total, &out->used, &out->reserved);
    out->free = out->total - out->used - out->reserved;
    return OK;
}

typedef struct { u32 version, sensor; int temperature; } temperature_v1;
int nvmlDeviceGetTemperatureV(dev d, temperature_v1 *out) {
    u32 value;
    int r = typed(number_of(d), "nvmlDeviceGetTemperature", out->sensor, &value);
    if (!r) out->temperature = (int)value;
    return r;
}
U64(nvmlDeviceGetCurrentClocksEventReasons)

int nvmlDeviceGetMigMode(dev d, u32 *current, u32 *pending) {
    u64 v;
    int r = number(number_of(d), "nvmlDeviceGetMigMode", &v);
    if (!r) *current = *pending = (u32)v;
    return r;
}
int nvmlDeviceGetMigDeviceHandleByIndex(dev d, u32 index, dev *out) {
    char text[64];
    int instance = 100 + 10 * number_of(d) + (int)index;
    if (index > 9 || !look_up(instance, "nvmlDeviceGetUUID", text, sizeof text)) return NOT_FOUND;
    *out = (dev)(intptr_t)(instance + 1);
    return OK;
}
typedef struct { u32 multiprocessors, rest[7]; u64 memory_mb; } attributes;
int nvmlDeviceGetAttributes_v2(dev d, attributes *out) {
    u64 v;
    int r = number(number_of(d), "nvmlDeviceGetAttributes.multiprocessorCount", &v);
    if (!r) { memset(out, 0, sizeof *out); out->multiprocessors = (u32)v; }
    return r;
}

/* The one field that is read so: 186, the instant power in milliwatts, as an unsigned int */
typedef struct { u32 field, scope; int64_t timestamp, latency; u32 type; int code; union { double d; u32 u; u64 ull; } value; } field;
int nvmlDeviceGetFieldValues(dev d, int count, field *values) {
    int r = gate(number_of(d), "nvmlDeviceGetFieldValues");
    if (r) return r;
    for (int i = 0; i < count; i++) {
        char key[64];
        u64 v = 0;
        snprintf(key, sizeof key, "nvmlDeviceGetFieldValues.%u", values[i].field);
        values[i].code = number(number_of(d), key, &v);
        values[i].type = 1;
        values[i].value.u = (u32)v;
    }
    return OK;
}
#endif
