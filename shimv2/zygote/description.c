#define _GNU_SOURCE
#include "description.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From linux/prctl.h and linux/keyctl.h: older headers do not have all of these names. */
#define GET_TIMER_SLACK 30 /* PR_GET_TIMERSLACK */
#define GET_MACHINE_CHECK_POLICY 34 /* PR_MCE_KILL_GET */
#define GET_SPECULATION 52 /* PR_GET_SPECULATION_CTRL: store bypass, indirect branch, L1D flush */
#define SPECULATION_CONTROLS 3
#define CORE_SCHEDULING 62 /* PR_SCHED_CORE; operation 0 reads the cookie */
#define GET_MDWE 66 /* PR_GET_MDWE: memory-deny-write-execute */
#define GET_MEMORY_MERGE 68 /* PR_GET_MEMORY_MERGE: KSM */
#define SESSION_KEYRING (-3) /* KEY_SPEC_SESSION_KEYRING */
#define NODES 4096 /* bits of a memory policy; the kernel has at most 1,024 nodes */

extern char **environ;

/* --- the key ------------------------------------------------------------------------------------ */

static int is_key_field(const char *name)
{
	static const char *const fields[] = {
		"Uid:", "Gid:", "Groups:", "SigBlk:", "SigIgn:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:",
		"CapAmb:", "NoNewPrivs:", "Seccomp:", "THP_enabled:", NULL,
	};
	const char *const *field;

	for (field = fields; *field; field++)
		if (!strncmp(name, *field, strlen(*field)))
			return 1;
	return 0;
}

/* Reads the whole status file: if a process has many groups, its capabilities come after 4 KiB. */
static const char *credentials(struct text *key, const char *proc)
{
	struct text status = {0};
	const char *reason = NULL;
	char path[64], *at, *next;

	snprintf(path, sizeof path, "%s/status", proc);
	if (append_file(&status, path)) {
		free(status.data);
		return "/proc/PID/status cannot be read";
	}
	for (at = status.data; *at; at = next) {
		next = strchr(at, '\n');
		next = next ? next + 1 : at + strlen(at);
		if (!strncmp(at, "Seccomp:", 8) && atoi(at + 8) != 0)
			reason = "a seccomp filter is on, and a fork of the zygote would not have it";
		if (is_key_field(at))
			append(key, at, next - at);
	}
	free(status.data);
	return reason;
}

static void namespaces(struct text *key, const char *proc)
{
	static const char *const names[] = {
		"cgroup", "ipc", "mnt", "net", "pid", "time", "time_for_children", "user", "uts", NULL,
	};
	const char *const *name;

	for (name = names; *name; name++) {
		char path[64], target[64] = "-";
		ssize_t size;

		snprintf(path, sizeof path, "%s/ns/%s", proc, *name);
		size = readlink(path, target, sizeof target - 1);
		if (size >= 0)
			target[size] = 0;
		else if (errno != ENOENT) /* this kernel does not have the namespace */
			key->failed = 1;
		line(key, "ns %s %s\n", *name, target);
	}
}

/* A line with a file's content; "-" if the kernel has no audit or no security module. */
static void file(struct text *key, const char *proc, const char *name)
{
	char path[64];

	snprintf(path, sizeof path, "%s/%s", proc, name);
	line(key, "%s ", name);
	if (append_file(key, path)) {
		if (errno != ENOENT && errno != EINVAL)
			key->failed = 1;
		append(key, "-", 1);
	}
	append(key, "\n", 1);
}

const char *describe_process(struct text *key, const char *proc)
{
	const char *reason = credentials(key, proc);
	struct rlimit limit;
	struct stat root;
	char path[64];
	int i, pid = atoi(proc + strlen("/proc/")); /* 0 (the calling process) for "self" */

	snprintf(path, sizeof path, "%s/root", proc);
	if (!reason && stat(path, &root))
		reason = "the root folder cannot be read";
	if (reason)
		return reason;
	line(key, "root %lx %lx\n", (long)root.st_dev, (long)root.st_ino);
	namespaces(key, proc);
	file(key, proc, "attr/current");
	file(key, proc, "loginuid");
	file(key, proc, "sessionid");
	file(key, proc, "oom_score_adj");
	for (i = 0; i < RLIM_NLIMITS; i++) {
		if (prlimit(pid, i, NULL, &limit))
			key->failed = 1;
		line(key, "hard %d %llu\n", i, (unsigned long long)limit.rlim_max);
	}
	return key->failed ? "an attribute of the process cannot be read" : NULL;
}

/* A line with the result of a system call; "-" if this kernel does not have the attribute.  After any other
 * error the value is unknown, so that there is no key. */
static void value(struct text *key, const char *name, long result)
{
	if (result >= 0)
		line(key, "%s %ld\n", name, result);
	else if (errno == EINVAL || errno == ENOSYS || errno == ENODEV || errno == EOPNOTSUPP)
		line(key, "%s -\n", name);
	else
		key->failed = 1;
}

/* The attributes that only the process itself can read. */
static void own_attributes(struct text *key)
{
	static const char *const speculation[] = {"store-bypass", "indirect-branch", "l1d-flush"};
	unsigned long nodes[NODES / (8 * sizeof(long))] = {0};
	unsigned long long cookie = 0;
	int mode = 0, i;

	value(key, "personality", personality(0xffffffff));
	value(key, "securebits", prctl(PR_GET_SECUREBITS, 0, 0, 0, 0));
	value(key, "session-keyring",
	      syscall(SYS_keyctl, 0 /* KEYCTL_GET_KEYRING_ID */, SESSION_KEYRING, 0));
	value(key, "mdwe", prctl(GET_MDWE, 0, 0, 0, 0));
	value(key, "memory-merge", prctl(GET_MEMORY_MERGE, 0, 0, 0, 0));
	for (i = 0; i < SPECULATION_CONTROLS; i++)
		value(key, speculation[i], prctl(GET_SPECULATION, i, 0, 0, 0));
	value(key, "core-scheduling", prctl(CORE_SCHEDULING, 0, 0, 0 /* a thread */, &cookie));
	line(key, "cookie %llx\n", cookie);
	value(key, "memory-policy", syscall(SYS_get_mempolicy, &mode, nodes, NODES, 0, 0));
	line(key, "mode %x nodes", mode);
	for (i = 0; i < (int)(sizeof nodes / sizeof *nodes); i++)
		if (nodes[i])
			line(key, " %d:%lx", i, nodes[i]);
	append(key, "\n", 1);
}

/* Variables that the interpreter, its C library or the shim reads once, at its start. */
static int is_read_at_start(const char *variable)
{
	static const char *const names[] = {
		"PYTHON", "LD_", "MALLOC_", "GLIBC_TUNABLES=", "LC_", "LANG", "PYRUNC_CONFIG=",
		"PYRUNC_SHARE_MEMORY=", NULL,
	};
	const char *const *name;

	for (name = names; *name; name++)
		if (!strncmp(variable, *name, strlen(*name)))
			return 1;
	return 0;
}

/* A line with the identity of a file of the code; 0 if it cannot be read. */
static int code(struct text *key, const char *path)
{
	struct stat found;

	if (stat(path, &found))
		return 0;
	line(key, "code %s %lx %lx %lld %lld.%09ld\n", path, (long)found.st_dev, (long)found.st_ino,
	     (long long)found.st_size, (long long)found.st_mtim.tv_sec, found.st_mtim.tv_nsec);
	return 1;
}

static const char *cannot_read(const char *path)
{
	static char reason[PATH_MAX + 256];

	snprintf(reason, sizeof reason, "%s: %s; this file belongs to the installation: install the shim again", path,
	         strerror(errno));
	return reason;
}

/* A line for the launcher and each file that the conf file names: interpreter, entry point, libraries. */
static const char *all_code(struct text *key, const char *self, const char *conf)
{
	char path[PATH_MAX];
	const char *end;

	if (!code(key, self))
		return cannot_read(self);
	for (; *conf; conf = *end ? end + 1 : end) {
		end = strchrnul(conf, '\n');
		snprintf(path, sizeof path, "%.*s", (int)(end - conf), conf);
		if (*path && !code(key, path))
			return cannot_read(path);
	}
	return NULL;
}

const char *make_key(struct text *key, const char *self, const char *conf)
{
	const char *reason = describe_process(key, "/proc/self");
	char **variable;

	if (!reason)
		reason = all_code(key, self, conf);
	if (reason)
		return reason;
	own_attributes(key);
	for (variable = environ; *variable; variable++)
		if (is_read_at_start(*variable)) {
			append(key, *variable, strlen(*variable));
			append(key, "\n", 1);
		}
	return key->failed ? "an attribute of the process cannot be read" : NULL;
}

/* --- the state ---------------------------------------------------------------------------------- */

static void scheduling(struct text *state)
{
	unsigned char cpus[1024] = {0};
	int priority = 0; /* struct sched_param; the functions of musl always fail */
	long size, i;

	errno = 0;
	line(state, "nice %d\n", getpriority(PRIO_PROCESS, 0));
	line(state, "ioprio %ld\n", syscall(SYS_ioprio_get, 1 /* a process */, 0));
	syscall(SYS_sched_getparam, 0, &priority);
	line(state, "scheduler %ld %d\n", syscall(SYS_sched_getscheduler, 0), priority);
	line(state, "timer-slack %d\n", prctl(GET_TIMER_SLACK, 0, 0, 0, 0));
	size = syscall(SYS_sched_getaffinity, 0, sizeof cpus, cpus);
	append(state, "affinity", 8);
	for (i = 0; i < size * 8; i++)
		if (cpus[i / 8] & 1 << i % 8)
			line(state, " %ld", i);
	append(state, "\n", 1);
}

static int cgroups(struct text *state)
{
	struct text all = {0};
	int found = !append_file(&all, "/proc/self/cgroup");
	char *at, *next;

	for (at = found ? all.data : ""; *at; at = next) {
		next = strchr(at, '\n');
		next = next ? next + 1 : at + strlen(at);
		append(state, "cgroup ", 7);
		append(state, at, next - at);
	}
	free(all.data);
	return found;
}

int make_state(struct text *state)
{
	struct rlimit limit;
	char filter[32];
	mode_t mask = umask(0);
	int i;

	umask(mask);
	line(state, "umask %o\n", mask);
	scheduling(state);
	line(state, "machine-check %d\n", prctl(GET_MACHINE_CHECK_POLICY, 0, 0, 0, 0));
	if (content("/proc/self/coredump_filter", filter, sizeof filter) < 0)
		strcpy(filter, "-\n"); /* a kernel without core dumps */
	line(state, "coredump-filter %s", filter);
	for (i = 0; i < RLIM_NLIMITS; i++)
		if (!getrlimit(i, &limit))
			line(state, "soft %d %llu\n", i, (unsigned long long)limit.rlim_cur);
	return cgroups(state) && !state->failed;
}
