// SPDX-License-Identifier: Apache-2.0
// A stand-in for NVIDIA's management library. It answers what a description beside it says; it drives nothing.
//
// The description is the file nvml.description in the directory of the library, or the file that GPULAB_NVML names:
// lines "key=value". Keys of GPU 3 are "gpu.3.name" or, for all GPUs, "gpu.*.name". A value "!15" makes the call
// return 15, a value "hang" makes it never return, "crash" ends the process. What is not described is NOT_SUPPORTED, 3.
// In values \n, \r, \t, \\ and \xNN stand for bytes. The file is read again whenever it changed, also while a process
// runs.
//
// Structures are written down from the public documentation of the interface.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define SUCCESS 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define INSUFFICIENT_SIZE 7
#define UNINITIALIZED 1
#define MIG_HANDLE 1000

typedef unsigned int u32;
typedef unsigned long long u64;
typedef void *device_t;

// By this symbol a reader tells that nothing here is real.
EXPORT int gpulabStandIn = 1;

static char *content;
static struct timespec content_time;
static off_t content_size;
static int initialized;

static const char *description_path(void) {
    static char path[4096];
    const char *given = getenv("GPULAB_NVML");
    if (given) return given;
    Dl_info info;
    if (!path[0] && dladdr(&gpulabStandIn, &info)) {
        snprintf(path, sizeof path - 32, "%s", info.dli_fname);
        char *slash = strrchr(path, '/');
        strcpy(slash ? slash + 1 : path, "nvml.description");
    }
    return path;
}

static void load(void) {
    struct stat now;
    const char *path = description_path();
    if (stat(path, &now)) return;
    if (content && now.st_size == content_size && now.st_mtim.tv_sec == content_time.tv_sec &&
        now.st_mtim.tv_nsec == content_time.tv_nsec)
        return;
    FILE *file = fopen(path, "rb");
    if (!file) return;
    char *text = malloc(now.st_size + 2);
    text[0] = '\n';
    size_t length = fread(text + 1, 1, now.st_size, file);
    text[length + 1] = 0;
    fclose(file);
    free(content);
    content = text;
    content_time = now.st_mtim;
    content_size = now.st_size;
}

static int unescape(const char *from, char *to, size_t size) {
    size_t length = 0;
    for (; *from && *from != '\n' && length + 1 < size; from++) {
        if (*from != '\\' || !from[1]) { to[length++] = *from; continue; }
        from++;
        if (*from == 'x') {
            char digits[3] = {from[1], from[2], 0};
            to[length++] = (char)strtol(digits, NULL, 16);
            from += 2;
        } else {
            to[length++] = *from == 'n' ? '\n' : *from == 'r' ? '\r' : *from == 't' ? '\t' : *from;
        }
    }
    to[length] = 0;
    return (int)length;
}

static int find(const char *key, char *value, size_t size) {
    char wanted[256];
    load();
    snprintf(wanted, sizeof wanted, "\n%s=", key);
    const char *at = content ? strstr(content, wanted) : NULL;
    if (!at) return 0;
    unescape(at + strlen(wanted), value, size);
    return 1;
}

// What a value that is no value means: 0 is "go on".
static int special(const char *value) {
    if (value[0] == '!') return atoi(value + 1);
    if (!strcmp(value, "crash")) raise(SIGSEGV);
    while (!strcmp(value, "hang")) pause();
    return SUCCESS;
}

static int global(const char *key, char *value, size_t size) {
    if (!find(key, value, size)) return NOT_SUPPORTED;
    return special(value);
}

static int number_of(device_t device) { return (int)(long)device - 1; }

// Look up a key of a GPU or, by its handle, of one of its instances ("gpu.0.mig.1.uuid").
static int of_gpu(device_t device, const char *key, char *value, size_t size) {
    char name[256];
    int number = number_of(device), instance = -1;
    if (!initialized) return UNINITIALIZED;
    if (number >= MIG_HANDLE) { instance = number % MIG_HANDLE; number = number / MIG_HANDLE - 1; }
    if (number < 0) return INVALID_ARGUMENT;
    char middle[64] = "";
    if (instance >= 0) snprintf(middle, sizeof middle, "mig.%d.", instance);
    snprintf(name, sizeof name, "gpu.%d.error", number);
    if (find(name, value, size)) { int code = special(value); if (code) return code; }
    snprintf(name, sizeof name, "gpu.%d.%s%s", number, middle, key);
    int found = find(name, value, size);
    if (!found) {
        snprintf(name, sizeof name, "gpu.*.%s%s", middle, key);
        found = find(name, value, size);
    }
    return found ? special(value) : NOT_SUPPORTED;
}

static int text_of(device_t device, const char *key, char *out, u32 size) {
    char value[1024];
    int code = of_gpu(device, key, value, sizeof value);
    if (code) return code;
    if (strlen(value) + 1 > size) return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return SUCCESS;
}

static int u32_of(device_t device, const char *key, u32 *out) {
    char value[1024];
    int code = of_gpu(device, key, value, sizeof value);
    if (!code) *out = (u32)strtoul(value, NULL, 0);
    return code;
}

static int u64_of(device_t device, const char *key, u64 *out) {
    char value[1024];
    int code = of_gpu(device, key, value, sizeof value);
    if (!code) *out = strtoull(value, NULL, 0);
    return code;
}

// "1,2,3": the number at a position.
static int list_of(device_t device, const char *key, int count, u64 *out) {
    char value[1024], *rest = value;
    int code = of_gpu(device, key, value, sizeof value);
    if (code) return code;
    for (int position = 0; position < count; position++) {
        out[position] = strtoull(rest, &rest, 0);
        if (*rest == ',') rest++;
    }
    return SUCCESS;
}

static int two_of(device_t device, const char *key, u32 *first, u32 *second) {
    u64 values[2];
    int code = list_of(device, key, 2, values);
    if (!code) { *first = (u32)values[0]; *second = (u32)values[1]; }
    return code;
}

// -- the library itself ----------------------------------------------------------------------------------------------

EXPORT int nvmlInitWithFlags(u32 flags) {
    char value[1024];
    (void)flags;
    if (find("init_seconds", value, sizeof value)) usleep((useconds_t)(atof(value) * 1e6));
    if (find("init", value, sizeof value)) { int code = special(value); if (code) return code; }
    initialized = 1;
    return SUCCESS;
}
EXPORT int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
EXPORT int nvmlShutdown(void) { return SUCCESS; }
EXPORT const char *nvmlErrorString(int code) {
    switch (code) {
        case 3: return "Not Supported";
        case 9: return "Driver Not Loaded";
        case 15: return "GPU is lost";
        case 16: return "GPU requires reset";
        case 18: return "Driver/library version mismatch";
        default: return "Unknown Error";
    }
}

static int version(const char *key, char *out, u32 size) {
    char value[1024];
    int code = global(key, value, sizeof value);
    if (!code) snprintf(out, size, "%s", value);
    return code;
}
EXPORT int nvmlSystemGetDriverVersion(char *out, u32 size) { return version("driver_version", out, size); }
EXPORT int nvmlSystemGetNVMLVersion(char *out, u32 size) { return version("nvml_version", out, size); }
EXPORT int nvmlSystemGetCudaDriverVersion_v2(int *out) {
    char value[64];
    int code = global("cuda_driver_version", value, sizeof value);
    if (!code) *out = atoi(value);
    return code;
}
EXPORT int nvmlDeviceGetCount_v2(u32 *out) {
    char value[64];
    int code = global("count", value, sizeof value);
    if (!code) *out = (u32)atoi(value);
    return code;
}
EXPORT int nvmlDeviceGetHandleByIndex_v2(u32 index, device_t *out) {
    char key[64], value[64];
    snprintf(key, sizeof key, "gpu.%u.handle", index);
    if (find(key, value, sizeof value)) { int code = special(value); if (code) return code; }
    *out = (device_t)(long)(index + 1);
    return SUCCESS;
}

// -- identity ------------------------------------------------------------------------------------------------------

EXPORT int nvmlDeviceGetName(device_t d, char *out, u32 size) { return text_of(d, "name", out, size); }
EXPORT int nvmlDeviceGetUUID(device_t d, char *out, u32 size) { return text_of(d, "uuid", out, size); }
EXPORT int nvmlDeviceGetVbiosVersion(device_t d, char *out, u32 size) { return text_of(d, "vbios", out, size); }
EXPORT int nvmlDeviceGetSerial(device_t d, char *out, u32 size) { return text_of(d, "serial", out, size); }
EXPORT int nvmlDeviceGetArchitecture(device_t d, u32 *out) { return u32_of(d, "architecture", out); }
EXPORT int nvmlDeviceGetCudaComputeCapability(device_t d, int *major, int *minor) {
    char value[64];
    int code = of_gpu(d, "compute_capability", value, sizeof value);
    if (!code) sscanf(value, "%d.%d", major, minor);
    return code;
}

typedef struct { char legacy[16]; u32 domain, bus, device, id, subsystem; char bus_id[32]; } pci_t;
EXPORT int nvmlDeviceGetPciInfo_v3(device_t d, pci_t *out) {
    char value[64];
    int code = of_gpu(d, "bdf", value, sizeof value);
    if (code) return code;
    memset(out, 0, sizeof *out);
    sscanf(value, "%x:%x:%x", &out->domain, &out->bus, &out->device);
    snprintf(out->bus_id, sizeof out->bus_id, "%08X:%02X:%02X.0", out->domain, out->bus, out->device);
    return SUCCESS;
}

// -- state ---------------------------------------------------------------------------------------------------------

typedef struct { u64 total, free, used; } memory_t;
typedef struct { u32 version; u64 total, reserved, free, used; } memory2_t;
EXPORT int nvmlDeviceGetMemoryInfo_v2(device_t d, memory2_t *out) {
    u64 values[2], reserved = 0;
    int code = list_of(d, "memory", 2, values);  // "total,used"
    int more = u64_of(d, "memory_reserved", &reserved);
    if (code || (more && more != NOT_SUPPORTED)) return code ? code : more;
    out->total = values[0]; out->used = values[1]; out->reserved = reserved;
    out->free = values[0] - values[1] - reserved;
    return SUCCESS;
}
EXPORT int nvmlDeviceGetMemoryInfo(device_t d, memory_t *out) {
    u64 values[2];
    int code = list_of(d, "memory", 2, values);
    if (!code) { out->total = values[0]; out->used = values[1]; out->free = values[0] - values[1]; }
    return code;
}
EXPORT int nvmlDeviceGetPersistenceMode(device_t d, u32 *out) { return u32_of(d, "persistence", out); }
EXPORT int nvmlDeviceGetAccountingMode(device_t d, u32 *out) { return u32_of(d, "accounting_mode", out); }
EXPORT int nvmlDeviceGetVirtualizationMode(device_t d, u32 *out) { return u32_of(d, "virtualization", out); }
EXPORT int nvmlDeviceGetMigMode(device_t d, u32 *now, u32 *later) { return two_of(d, "mig", now, later); }
EXPORT int nvmlDeviceGetMaxMigDeviceCount(device_t d, u32 *out) { return u32_of(d, "mig_places", out); }
EXPORT int nvmlDeviceGetMigDeviceHandleByIndex(device_t d, u32 index, device_t *out) {
    char key[64], value[256];
    snprintf(key, sizeof key, "mig.%u.uuid", index);
    int code = of_gpu(d, key, value, sizeof value);
    if (code) return code == NOT_SUPPORTED ? NOT_FOUND : code;
    *out = (device_t)(long)((number_of(d) + 1) * MIG_HANDLE + (int)index + 1);
    return SUCCESS;
}

EXPORT int nvmlDeviceGetEccMode(device_t d, u32 *now, u32 *later) { return two_of(d, "ecc", now, later); }
EXPORT int nvmlDeviceGetTotalEccErrors(device_t d, int kind, int counter, u64 *out) {
    u64 values[2];  // "corrected,uncorrected"
    int code = list_of(d, counter ? "ecc_aggregate" : "ecc_volatile", 2, values);
    if (!code) *out = values[kind ? 1 : 0];
    return code;
}
typedef struct { u32 version; u64 parity, secded, rest[9]; u32 exceeded; } sram_t;
EXPORT int nvmlDeviceGetSramEccErrorStatus(device_t d, sram_t *out) {
    u64 values[3];  // "parity,secded,threshold exceeded"
    int code = list_of(d, "sram", 3, values);
    if (!code) { out->parity = values[0]; out->secded = values[1]; out->exceeded = (u32)values[2]; }
    return code;
}
EXPORT int nvmlDeviceGetRemappedRows(device_t d, u32 *corrected, u32 *uncorrected, u32 *pending, u32 *failure) {
    u64 values[4];
    int code = list_of(d, "row_remap", 4, values);
    if (code) return code;
    *corrected = (u32)values[0]; *uncorrected = (u32)values[1]; *pending = (u32)values[2]; *failure = (u32)values[3];
    return SUCCESS;
}
EXPORT int nvmlDeviceGetRetiredPages(device_t d, int cause, u32 *count, u64 *pages) {
    u64 values[2];  // "single,double"
    int code = list_of(d, "retired_pages", 2, values);
    if (code) return code;
    u32 have = (u32)values[cause ? 1 : 0], room = *count;
    *count = have;
    if (room < have) return INSUFFICIENT_SIZE;
    for (u32 position = 0; position < have; position++) pages[position] = 0x1000 * (position + 1);
    return SUCCESS;
}
EXPORT int nvmlDeviceGetRetiredPagesPendingStatus(device_t d, u32 *out) { return u32_of(d, "retired_pending", out); }

typedef struct {
    u32 id, scope;
    long long time, latency;
    u32 type;
    int code;
    union { u64 number; double real; } value;
} field_t;
EXPORT int nvmlDeviceGetFieldValues(device_t d, int count, field_t *fields) {
    char key[64];
    for (int position = 0; position < count; position++) {
        field_t *field = fields + position;
        u64 number = 0;
        snprintf(key, sizeof key, "field.%u.%u", field->id, field->scope);
        int code = u64_of(d, key, &number);
        if (code == NOT_SUPPORTED) { snprintf(key, sizeof key, "field.%u", field->id); code = u64_of(d, key, &number); }
        field->code = code;
        field->type = 3;
        field->value.number = number;
    }
    return initialized ? SUCCESS : UNINITIALIZED;
}

// -- links ---------------------------------------------------------------------------------------------------------

EXPORT int nvmlDeviceGetCurrPcieLinkGeneration(device_t d, u32 *out) { return u32_of(d, "pcie_gen", out); }
EXPORT int nvmlDeviceGetMaxPcieLinkGeneration(device_t d, u32 *out) { return u32_of(d, "pcie_gen_max", out); }
EXPORT int nvmlDeviceGetGpuMaxPcieLinkGeneration(device_t d, u32 *out) { return u32_of(d, "pcie_gen_max_gpu", out); }
EXPORT int nvmlDeviceGetCurrPcieLinkWidth(device_t d, u32 *out) { return u32_of(d, "pcie_width", out); }
EXPORT int nvmlDeviceGetMaxPcieLinkWidth(device_t d, u32 *out) { return u32_of(d, "pcie_width_max", out); }
EXPORT int nvmlDeviceGetPcieReplayCounter(device_t d, u32 *out) { return u32_of(d, "pcie_replays", out); }

// "nvlink" is the number of links; "nvlink.3" one that differs: 0 for inactive; "nvlink_errors.3" its counters.
EXPORT int nvmlDeviceGetNvLinkState(device_t d, u32 link, u32 *out) {
    char key[64];
    u32 links;
    int code = u32_of(d, "nvlink", &links);
    if (code) return code;
    if (link >= links) return INVALID_ARGUMENT;
    snprintf(key, sizeof key, "nvlink.%u", link);
    code = u32_of(d, key, out);
    if (code == NOT_SUPPORTED) { *out = 1; code = SUCCESS; }
    return code;
}
EXPORT int nvmlDeviceGetNvLinkErrorCounter(device_t d, u32 link, int counter, u64 *out) {
    char key[64];
    u64 values[5] = {0};  // replay, recovery, flit, data, ecc
    u32 newer;
    if (u32_of(d, "nvlink_newer", &newer) == SUCCESS && newer) return NOT_SUPPORTED;
    snprintf(key, sizeof key, "nvlink_errors.%u", link);
    int code = list_of(d, key, 5, values);
    if (code && code != NOT_SUPPORTED) return code;
    *out = values[counter];
    return SUCCESS;
}

typedef struct { unsigned char cluster[16]; u32 status, clique, state; } fabric1_t;
typedef struct {
    u32 version;
    unsigned char cluster[16];
    u32 status, clique, state, health;
    unsigned char summary;
} fabric3_t;
EXPORT int nvmlDeviceGetGpuFabricInfoV(device_t d, fabric3_t *out) {
    u64 values[4];  // "state,status,health,summary"
    int code = list_of(d, "fabric", 4, values);
    if (code) return code;
    if (out->version >> 24 < 3) return 25;
    out->state = (u32)values[0]; out->status = (u32)values[1]; out->health = (u32)values[2];
    out->summary = (unsigned char)values[3];
    return SUCCESS;
}
EXPORT int nvmlDeviceGetGpuFabricInfo(device_t d, fabric1_t *out) {
    u64 values[4];
    int code = list_of(d, "fabric", 4, values);
    if (!code) { out->state = (u32)values[0]; out->status = (u32)values[1]; }
    return code;
}

// -- load ----------------------------------------------------------------------------------------------------------

EXPORT int nvmlDeviceGetCurrentClocksEventReasons(device_t d, u64 *out) { return u64_of(d, "reasons", out); }
EXPORT int nvmlDeviceGetCurrentClocksThrottleReasons(device_t d, u64 *out) { return u64_of(d, "reasons", out); }
EXPORT int nvmlDeviceGetTemperature(device_t d, int sensor, u32 *out) {
    (void)sensor;
    return u32_of(d, "temperature", out);
}
EXPORT int nvmlDeviceGetPowerUsage(device_t d, u32 *out) { return u32_of(d, "power_mw", out); }
EXPORT int nvmlDeviceGetEnforcedPowerLimit(device_t d, u32 *out) { return u32_of(d, "power_limit_mw", out); }
typedef struct { u32 gpu, memory; } utilization_t;
EXPORT int nvmlDeviceGetUtilizationRates(device_t d, utilization_t *out) {
    return two_of(d, "utilization", &out->gpu, &out->memory);
}

// "pid:bytes,pid:bytes", bytes may be "?" for "not available".
typedef struct { u32 pid; u64 memory; u32 gpu_instance, compute_instance; } process_t;
static int processes(device_t d, const char *key, u32 *count, process_t *out) {
    char value[1024];
    u32 have = 0, room = *count;
    int code = of_gpu(d, key, value, sizeof value);
    if (code == NOT_SUPPORTED) { *count = 0; return SUCCESS; }
    if (code) return code;
    for (char *save = NULL, *row = strtok_r(value, ",", &save); row; row = strtok_r(NULL, ",", &save), have++) {
        if (have >= room) continue;
        char *colon = strchr(row, ':');
        memset(out + have, 0, sizeof *out);
        out[have].pid = (u32)strtoul(row, NULL, 10);
        out[have].memory = !colon || colon[1] == '?' ? ~0ULL : strtoull(colon + 1, NULL, 10);
    }
    *count = have;
    return have > room ? INSUFFICIENT_SIZE : SUCCESS;
}
EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(device_t d, u32 *count, process_t *out) {
    return processes(d, "processes", count, out);
}
EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v3(device_t d, u32 *count, process_t *out) {
    return processes(d, "graphics", count, out);
}
EXPORT int nvmlDeviceGetMPSComputeRunningProcesses_v3(device_t d, u32 *count, process_t *out) {
    return processes(d, "mps", count, out);
}

// "accounting" lists pids; "accounting.42" is "gpu utilization,max memory,time in ms,start in us,running".
typedef struct { u32 gpu, memory; u64 max_memory, time, start; u32 running, reserved[5]; } accounting_t;
EXPORT int nvmlDeviceGetAccountingBufferSize(device_t d, u32 *out) {
    u32 on;
    *out = 64;
    return u32_of(d, "accounting_mode", &on);
}
EXPORT int nvmlDeviceGetAccountingPids(device_t d, u32 *count, u32 *pids) {
    char value[1024];
    u32 have = 0;
    int code = of_gpu(d, "accounting", value, sizeof value);
    if (code == NOT_SUPPORTED) { *count = 0; return SUCCESS; }
    if (code) return code;
    for (char *save = NULL, *row = strtok_r(value, ",", &save); row && have < *count; row = strtok_r(NULL, ",", &save))
        pids[have++] = (u32)strtoul(row, NULL, 10);
    *count = have;
    return SUCCESS;
}
EXPORT int nvmlDeviceGetAccountingStats(device_t d, u32 pid, accounting_t *out) {
    char key[64];
    u64 values[5];
    snprintf(key, sizeof key, "accounting.%u", pid);
    int code = list_of(d, key, 5, values);
    if (code) return code == NOT_SUPPORTED ? NOT_FOUND : code;
    memset(out, 0, sizeof *out);
    out->gpu = (u32)values[0]; out->max_memory = values[1]; out->time = values[2]; out->start = values[3];
    out->running = (u32)values[4];
    return SUCCESS;
}
