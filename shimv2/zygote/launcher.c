/* The shim's binary where a compiler was there: hands `start` and `delete` to a warm process.
 *
 * An interpreter that starts and imports takes as long as the whole start of a shim.  So one Python
 * process, the zygote (parent.py), stays behind after the first `start`, with everything imported, and
 * forks on request.  A fork cannot change what the kernel ties to a process - ids, namespaces,
 * capabilities, hard limits: all that is one text, the key, and only a zygote with the very same
 * key is asked.  The rest (arguments, environment, working directory, streams, soft limits, the
 * cgroup ...) goes along with the request.
 *
 *     launcher               the zygote's waiting child
 *       key, state ...   ──►   compares, takes over the state
 *                        ◄──   "ok"
 *       "go", streams    ──►   does what the command line says
 *                        ◄──   exit status
 *
 * Nothing has happened before "go": when there is no zygote, when its key differs or when it does
 * not answer in time, this makes a cold start: it becomes a Python process of its own.  The streams
 * go last for that reason: in the queue of a process that is stopped they would keep the daemon,
 * which reads to their end, waiting.
 *
 * Beside the program lies a file of its name and `.conf`, written at install: a line with the
 * interpreter, a line with the Python entry point, cold_start.py, and a line for each file whose
 * replacement, as by a security update, is to lead to a new zygote.
 */

#define _GNU_SOURCE
#include "description.h"
#include "text.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

/* The waiting child answers in 1 ms, or when the launchers before this one have been served.  While the
 * zygote forks for those, this one waits on, for a cold start costs as much. */
#define LOOK_MS 50
#define LOOKS 10
#define IDLE_LOOKS 2 /* without a fork: the waiting child does not work */
#define ENTRY_ARGS 4 /* python -I entry new-zygote */

extern char **environ;

/* --- the request ------------------------------------------------------------------------------- */

static void words(struct text *body, char *const *from)
{
	struct text all = {0};

	for (; *from; from++)
		append(&all, *from, strlen(*from) + 1);
	section(body, all.data, all.used);
	body->failed |= all.failed;
	free(all.data);
}

/* The body of a request, in a file in memory; -1 when that cannot be made. */
static int make_request(const struct text *key, const struct text *state, char *const *argv)
{
	struct text body = {0};
	char path[64], score[32];
	size_t sent = 0;
	int fd;

	snprintf(path, sizeof path, "/proc/%d/oom_score_adj", getppid());
	if (content(path, score, sizeof score) < 0)
		score[0] = 0; /* the start says what is wrong */
	section(&body, key->data, key->used);
	section(&body, state->data, state->used);
	section(&body, score, strlen(score));
	words(&body, argv);
	words(&body, environ);
	fd = body.failed ? -1 : memfd_create("request", MFD_CLOEXEC);
	while (fd >= 0 && sent < body.used) {
		ssize_t done = write(fd, body.data + sent, body.used - sent);

		if (done <= 0) {
			close(fd);
			fd = -1;
		} else {
			sent += done;
		}
	}
	free(body.data);
	return fd;
}

/* Send a word with fds; 0 when it cannot be sent. */
static int send_word(int zygote, const char *word, const int *fds, int count)
{
	char control[CMSG_SPACE(4 * sizeof *fds)] = {0};
	struct iovec data = {(char *)word, strlen(word)};
	struct msghdr message = {
		.msg_iov = &data, .msg_iovlen = 1, .msg_control = control,
		.msg_controllen = CMSG_SPACE(count * sizeof *fds),
	};
	struct cmsghdr *rights = CMSG_FIRSTHDR(&message);

	rights->cmsg_level = SOL_SOCKET;
	rights->cmsg_type = SCM_RIGHTS;
	rights->cmsg_len = CMSG_LEN(count * sizeof *fds);
	memcpy(CMSG_DATA(rights), fds, count * sizeof *fds);
	return sendmsg(zygote, &message, MSG_NOSIGNAL | MSG_DONTWAIT) > 0;
}

/* --- the zygote -------------------------------------------------------------------------------- */

/* Where the zygote of a key listens.  FNV-1a is enough for a name: the key itself is compared. */
static int socket_path(char *path, size_t room, const struct text *key)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	uint64_t hash = 0xcbf29ce484222325u;
	size_t i;
	int used;

	for (i = 0; i < key->used; i++)
		hash = (hash ^ (unsigned char)key->data[i]) * 0x100000001b3u;
	if (geteuid() == 0)
		used = snprintf(path, room, "/run/containerd-shim-pyrunc/0/%016llx.sock",
		                (unsigned long long)hash);
	else if (runtime && *runtime == '/')
		used = snprintf(path, room, "%s/containerd-shim-pyrunc/%016llx.sock", runtime,
		                (unsigned long long)hash);
	else
		return 0;
	return used > 0 && (size_t)used < room;
}

/* Whether only this user can put a socket there. */
static int is_ours_alone(const char *path)
{
	char folder[sizeof ((struct sockaddr_un *)0)->sun_path];
	struct stat found;

	strcpy(folder, path);
	*strrchr(folder, '/') = 0;
	return !lstat(folder, &found) && S_ISDIR(found.st_mode) && found.st_uid == geteuid() &&
	       !(found.st_mode & 077);
}

static int connect_to_zygote(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct ucred peer;
	socklen_t size = sizeof peer;
	int fd;

	if (!is_ours_alone(path))
		return -1;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -1;
	if (connect(fd, (struct sockaddr *)&address, sizeof address) ||
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) || peer.uid != geteuid()) {
		close(fd);
		return -1;
	}
	return fd;
}

/* The page faults of the zygote, which made the socket: each of its forks adds some.  -1 when it is
 * stopped or gone. */
static long zygote_faults(int zygote)
{
	char path[64], stat[1024], *name_end, state;
	struct ucred peer;
	socklen_t size = sizeof peer;
	long faults;

	if (getsockopt(zygote, SOL_SOCKET, SO_PEERCRED, &peer, &size))
		return -1;
	snprintf(path, sizeof path, "/proc/%d/stat", peer.pid);
	if (content(path, stat, sizeof stat) < 0)
		return -1;
	name_end = strrchr(stat, ')');
	/* state ppid pgrp session tty_nr tpgid flags minflt */
	if (!name_end || sscanf(name_end + 1, " %c %*d %*d %*d %*d %*d %*u %ld", &state, &faults) != 2)
		return -1;
	return strchr("TtZX", state) ? -1 : faults;
}

static int answers_ok(int zygote)
{
	struct pollfd wait = {.fd = zygote, .events = POLLIN};
	long faults = 0, before = 0;
	int look, idle = 0, came = 0;
	char answer[2];

	for (look = 0; !came && look < LOOKS && idle < IDLE_LOOKS; look++) {
		came = poll(&wait, 1, LOOK_MS);
		if (came)
			break;
		faults = zygote_faults(zygote);
		if (faults < 0)
			return 0;
		idle = look && faults != before ? 0 : idle + 1;
		before = faults;
	}
	return came == 1 && read(zygote, answer, 2) == 2 && !memcmp(answer, "ok", 2);
}

/* Wait for the exit status: from here on there is no cold start. */
static int outcome(int zygote)
{
	static const char lost[] = "the process that did the work was killed";
	unsigned char status;
	ssize_t size;

	fcntl(zygote, F_SETFL, fcntl(zygote, F_GETFL) & ~O_NONBLOCK);
	do
		size = read(zygote, &status, 1);
	while (size < 0 && errno == EINTR);
	if (size == 1)
		return status;
	if (write(2, lost, sizeof lost - 1) < 0)
		return 1; /* the status says as much */
	return 1;
}

/* The exit status, or -1 when nothing was done. */
static int ask_zygote(const char *path, const struct text *key, int argc, char *const *argv)
{
	int zygote = connect_to_zygote(path), body = -1, status = -1;
	struct text state = {0};

	if (zygote >= 0 && make_state(&state))
		body = make_request(key, &state, argv);
	if (body >= 0 && send_word(zygote, "request", &body, 1) && answers_ok(zygote)) {
		int given[4] = {0, 1, 2, open(".", O_PATH | O_DIRECTORY | O_CLOEXEC)};

		if (!strcmp(argv[argc - 1], "delete")) {
			/* It finishes what it began, as the process that does the work does. */
			signal(SIGTERM, SIG_IGN);
			signal(SIGINT, SIG_IGN);
		}
		if (given[3] >= 0 && send_word(zygote, "go", given, 4))
			status = outcome(zygote);
	}
	if (zygote >= 0)
		close(zygote);
	if (body >= 0)
		close(body);
	free(state.data);
	return status;
}

/* --- the cold start ----------------------------------------------------------------------------- */

/* What the zygote that a cold start leaves has to know, in a file in memory; -1 when there is none. */
static int make_new_zygote(const char *path, const struct text *key, const char *self)
{
	struct text body = {0};
	int fd = -1;

	section(&body, path, strlen(path));
	section(&body, key->data, key->used);
	section(&body, self, strlen(self));
	if (!body.failed)
		fd = memfd_create("new-zygote", 0); /* inherited */
	if (fd >= 0 && write(fd, body.data, body.used) != (ssize_t)body.used) {
		close(fd);
		fd = -1;
	}
	free(body.data);
	return fd;
}

/* Whether a zygote is to be asked: for `start` and `delete`, which come last on containerd's command
 * lines, and not for a core-scheduling cookie, which belongs to one process group. */
static int is_for_zygote(int argc, char *const *argv)
{
	const char *cores = getenv("SCHED_CORE");
	const char *before = argc > 2 ? argv[argc - 2] : "-";

	if (argc < 3 || (cores && *cores))
		return 0;
	if (strcmp(argv[argc - 1], "start") && strcmp(argv[argc - 1], "delete"))
		return 0;
	/* After a flag it may be that flag's value. */
	return *before != '-' || strchr(before, '=') || !strcmp(before, "-debug");
}

/* `new_zygote`: the number of an fd, "-", or the reason why there can be none. */
static int become_python(char *conf, char *new_zygote, int argc, char *const *argv)
{
	char *entry = strchr(conf, '\n'), **args = calloc(argc + ENTRY_ARGS + 1, sizeof *args);
	int i;

	if (!args || !entry)
		return 1;
	*entry++ = 0;
	entry[strcspn(entry, "\n")] = 0;
	args[0] = conf;
	args[1] = "-I"; /* nothing of the daemon's environment or folder is imported */
	args[2] = entry;
	args[3] = new_zygote;
	for (i = 0; i < argc; i++)
		args[ENTRY_ARGS + i] = argv[i];
	execv(conf, args);
	dprintf(2, "%s: %s", conf, strerror(errno));
	return 1;
}

/* Signals 32 and 33 are the C library's own: it resets them when a process first has a thread, and what
 * that process starts then finds them at their default, whatever it started with itself.  So that all
 * shims are alike they are at their default in all, as in Go's. */
static void reset_hidden_signals(void)
{
	static const unsigned char default_action[128]; /* all zero, whatever the layout */
	int number;

	for (number = 32; number <= 33; number++) /* sigaction(3) refuses them */
		syscall(SYS_rt_sigaction, number, default_action, NULL, 8 /* bytes of a set */);
}

/* The exit status, or -1 with what become_python is to be given. */
static int warm_start(const char *self, const char *conf, int argc, char *const *argv, char *new_zygote,
                      size_t room)
{
	char path[sizeof ((struct sockaddr_un *)0)->sun_path];
	struct text key = {0};
	const char *reason = make_key(&key, self, conf);
	int status, fd;

	if (!reason && !socket_path(path, sizeof path, &key))
		reason = "XDG_RUNTIME_DIR, where the zygote's socket would be, is not set";
	if (reason) {
		snprintf(new_zygote, room, "%s", reason);
		return -1;
	}
	status = ask_zygote(path, &key, argc, argv);
	if (status < 0) {
		fd = make_new_zygote(path, &key, self);
		if (fd >= 0)
			snprintf(new_zygote, room, "%d", fd);
		else
			snprintf(new_zygote, room, "a file in memory: %s", strerror(errno));
	}
	return status;
}

int main(int argc, char **argv)
{
	char self[PATH_MAX], conf_path[PATH_MAX + 8], new_zygote[256] = "-";
	ssize_t size = readlink("/proc/self/exe", self, sizeof self - 1);
	struct text conf = {0};
	int status = -1;

	reset_hidden_signals();
	if (size < 0) {
		dprintf(2, "/proc/self/exe: %s", strerror(errno));
		return 1;
	}
	self[size] = 0;
	snprintf(conf_path, sizeof conf_path, "%s.conf", self);
	if (append_file(&conf, conf_path)) {
		dprintf(2, "%s: %s", conf_path, strerror(errno));
		return 1;
	}
	if (is_for_zygote(argc, argv))
		status = warm_start(self, conf.data, argc, argv, new_zygote, sizeof new_zygote);
	return status >= 0 ? status : become_python(conf.data, new_zygote, argc, argv);
}
