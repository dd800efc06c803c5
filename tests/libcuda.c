/* CUDA's driver library as it answers on a machine with two GPUs, for tests on one that has none.
 *
 * The second GPU is in two parts (MIG), which are shown to who names them, to a process one alone.
 * Where LIBCUDA_LOG names a file, each process that asks leaves a line there: its job, step and
 * rank under Slurm, and what CUDA_VISIBLE_DEVICES is.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INVALID = 1, NO_DEVICE = 100 };

static const char *const NAMES[] = {"Fast GPU", "Slow GPU", "Slow GPU MIG 1g.5gb", "Slow GPU MIG 1g.5gb"};
static const char *const IDS[] = {"GPU-aaaaaaaa", "GPU-bbbbbbbb", "MIG-cccccccc", "MIG-dddddddd"};
static const unsigned char BYTES[] = {0xaa, 0xbb, 0xcc, 0xdd};
static int shown[16], count;

static const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value ? value : "";
}

/* Which device an entry of CUDA_VISIBLE_DEVICES stands for, -1 for none. */
static int device_of(const char *entry)
{
    int by_bus = !strcmp(variable("CUDA_DEVICE_ORDER"), "PCI_BUS_ID");
    char *end;
    long number = strtol(entry, &end, 10);
    if (*entry && !*end)
        return number < 0 || number > 1 ? -1 : by_bus ? 1 - (int)number : (int)number;
    for (int device = 0; device < 4; device++)
        if (!strncmp(entry, IDS[device], 12))
            return device;
    return -1;
}

int cuInit(unsigned flags)
{
    const char *path = getenv("LIBCUDA_LOG"), *given = getenv("CUDA_VISIBLE_DEVICES");
    if (path) {
        FILE *file = fopen(path, "a");
        fprintf(file, "%s %s %s %s\n", variable("SLURM_JOB_ID"), variable("SLURM_STEP_ID"),
                variable("SLURM_PROCID"), given ? given : "");
        fclose(file);
    }
    if (getenv("LIBCUDA_HANGS"))
        for (;;)
            ;
    char *entries = strdup(given ? given : "0,1");
    for (char *entry = strtok(entries, ","); entry; entry = strtok(NULL, ",")) {
        int device = device_of(entry);
        if (device < 0 || (count && device > 1))
            break;
        shown[count++] = device;
        if (device > 1)
            break;
    }
    return count ? 0 : NO_DEVICE;
}

int cuDeviceGetCount(int *number)
{
    *number = count;
    return 0;
}

int cuDeviceGet(int *device, int number)
{
    if (number >= count)
        return INVALID;
    *device = number;
    return 0;
}

int cuDeviceGetName(char *name, int length, int device)
{
    snprintf(name, length, "%s", NAMES[shown[device]]);
    return 0;
}

int cuDeviceGetUuid(unsigned char *id, int device)
{
    int whole = shown[device] > 1 ? 1 : shown[device];
    memset(id, BYTES[whole], 16);
    return 0;
}

int cuDeviceGetUuid_v2(unsigned char *id, int device)
{
    memset(id, BYTES[shown[device]], 16);
    return 0;
}

int cuGetErrorString(int error, const char **text)
{
    *text = error == NO_DEVICE ? "no CUDA-capable device is detected" : "invalid argument";
    return 0;
}
