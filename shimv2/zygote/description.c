#define _GNU_SOURCE
#include "description.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

extern char **environ;

static void file(struct text *t, const char *path)
{
	char buffer[4096];

	/* Unreadable is a value, too: a kernel without audit or security modules. */
	if (content(path, buffer, sizeof buffer) < 0)
		strcpy(buffer, "-");
	line(t, "%s %s\n", path, buffer);
}

/* --- what a fork cannot get back: the key ------------------------------------------------------ */

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

/* Returns 0 when a seccomp filter is on, which must have the process to itself. */
static int credentials(struct text *key)
{
	char status[8192], *at, *next;

	if (content("/proc/self/status", status, sizeof status) <= 0)
		return 0;
	for (at = status; *at; at = next) {
		next = strchr(at, '\n');
		next = next ? next + 1 : at + strlen(at);
		if (!strncmp(at, "Seccomp:", 8) && atoi(at + 8) != 0)
			return 0;
		if (is_key_field(at))
			append(key, at, next - at);
	}
	return 1;
}

static void namespaces(struct text *key)
{
	static const char *const names[] = {
		"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts", NULL,
	};
	const char *const *name;

	for (name = names; *name; name++) {
		char path[64], target[64] = "-";
		ssize_t size;

		snprintf(path, sizeof path, "/proc/self/ns/%s", *name);
		size = readlink(path, target, sizeof target - 1);
		if (size >= 0)
			target[size] = 0;
		line(key, "ns %s\n", target);
	}
}

/* What an interpreter or its C library reads once, when it starts. */
static int is_read_at_start(const char *variable)
{
	static const char *const names[] = {
		"PYTHON", "LD_", "MALLOC_", "GLIBC_TUNABLES=", "LC_", "LANG", NULL,
	};
	const char *const *name;

	for (name = names; *name; name++)
		if (!strncmp(variable, *name, strlen(*name)))
			return 1;
	return 0;
}

int make_key(struct text *key, const char *self, const char *conf)
{
	struct stat root, code;
	struct rlimit limit;
	char **variable;
	int i;

	if (!credentials(key) || stat("/", &root) || stat(self, &code))
		return 0;
	namespaces(key);
	line(key, "root %lx %lx\n", (long)root.st_dev, (long)root.st_ino);
	file(key, "/proc/self/attr/current");
	file(key, "/proc/self/loginuid");
	file(key, "/proc/self/sessionid");
	file(key, "/proc/self/oom_score_adj");
	line(key, "personality %x securebits %x\n", personality(0xffffffff),
	     prctl(PR_GET_SECUREBITS, 0, 0, 0, 0));
	for (i = 0; i < RLIM_NLIMITS; i++)
		if (!getrlimit(i, &limit))
			line(key, "hard %d %llu\n", i, (unsigned long long)limit.rlim_max);
	/* The code: another build is another file here. */
	line(key, "code %s %lx %lx %ld.%09ld\n%s\n", self, (long)code.st_dev, (long)code.st_ino,
	     (long)code.st_mtim.tv_sec, code.st_mtim.tv_nsec, conf);
	for (variable = environ; *variable; variable++)
		if (is_read_at_start(*variable)) {
			append(key, *variable, strlen(*variable));
			append(key, "\n", 1);
		}
	return !key->failed;
}

/* --- what the child of a zygote makes its own: the state --------------------------------------- */

int make_state(struct text *state)
{
	unsigned char cpus[1024] = {0};
	struct sched_param param = {0};
	struct rlimit limit;
	char cgroups[16384], *at, *next;
	mode_t mask = umask(0);
	long size, i;

	umask(mask);
	line(state, "umask %o\n", mask);
	errno = 0;
	line(state, "nice %d\n", getpriority(PRIO_PROCESS, 0));
	line(state, "ioprio %ld\n", syscall(SYS_ioprio_get, 1 /* a process */, 0));
	sched_getparam(0, &param);
	line(state, "scheduler %d %d\n", sched_getscheduler(0), param.sched_priority);
	size = syscall(SYS_sched_getaffinity, 0, sizeof cpus, cpus);
	append(state, "affinity", 8);
	for (i = 0; i < size * 8; i++)
		if (cpus[i / 8] & 1 << i % 8)
			line(state, " %ld", i);
	append(state, "\n", 1);
	for (i = 0; i < RLIM_NLIMITS; i++)
		if (!getrlimit(i, &limit))
			line(state, "soft %ld %llu\n", i, (unsigned long long)limit.rlim_cur);
	if (content("/proc/self/cgroup", cgroups, sizeof cgroups) <= 0)
		return 0;
	for (at = cgroups; *at; at = next) {
		next = strchr(at, '\n');
		next = next ? next + 1 : at + strlen(at);
		append(state, "cgroup ", 7);
		append(state, at, next - at);
	}
	return !state->failed;
}
