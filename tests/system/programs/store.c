// Asks the store, as the kernel lets a process do: `store ls PATH` shows all that is to be seen from there, `write PATH VALUE`
// writes, `watch PATH` shows events for ever.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DIRECTORY = 1, READ = 2, WATCH = 4, WRITE = 11, WATCH_EVENT = 15, ERROR = 16 };

struct header {
	uint32_t type, request, transaction, length;
};

static int store;

static void all(ssize_t (*move)(int, void *, size_t), void *bytes, size_t length)
{
	for (char *at = bytes; length > 0;) {
		ssize_t done = move(store, at, length);
		if (done <= 0) {
			perror("the store");
			exit(1);
		}
		at += done;
		length -= done;
	}
}

static ssize_t put(int fd, void *bytes, size_t length)
{
	return write(fd, bytes, length);
}

// Receives one message into `answer`, which is a string at its end, and returns its header.
static struct header receive(char answer[4097])
{
	struct header header;
	all(read, &header, sizeof header);
	if (header.length > 4096)
		exit(1);
	all(read, answer, header.length);
	answer[header.length] = 0;
	return header;
}

// Asks; returns the answer's length, or -1 when the answer is an error's name.
static int ask(uint32_t type, const char *request, size_t length, char answer[4097])
{
	struct header header = { type, 0, 0, length };
	all(put, &header, sizeof header);
	all(put, (void *)request, length);
	while ((header = receive(answer)).type == WATCH_EVENT)
		printf("event %s\n", answer);
	return header.type == ERROR ? -1 : (int)header.length;
}

static void list(const char *path)
{
	char answer[4097], names[4097], below[8194];
	ask(READ, path, strlen(path) + 1, answer);
	printf("%s: %s\n", path, answer);
	int length = ask(DIRECTORY, path, strlen(path) + 1, names);
	if (length < 0)
		printf("%s/: %s\n", path, names);
	for (char *name = names; name < names + length; name += strlen(name) + 1) {
		snprintf(below, sizeof below, "%s/%s", path[1] ? path : "", name);
		list(below);
	}
}

int main(int argc, char **argv)
{
	char answer[4097], request[4097];
	if (argc < 3 || (store = open("/dev/xen/xenbus", O_RDWR)) < 0)
		return 1;
	setvbuf(stdout, NULL, _IOLBF, 0);
	const char *verb = argv[1], *path = argv[2];
	size_t length = strlen(path) + 1;
	if (!strcmp(verb, "ls")) {
		list(path);
	} else if (!strcmp(verb, "write") && argc == 4) {
		length += snprintf(request, sizeof request, "%s%c%s", path, 0, argv[3]) - length;
		ask(WRITE, request, length, answer);
		printf("%s: %s\n", path, answer);
	} else if (!strcmp(verb, "watch")) {
		length = snprintf(request, sizeof request, "%s%ctoken%c", path, 0, 0);
		ask(WATCH, request, length, answer);
		printf("%s: %s\n", path, answer);
		for (;;)
			if (receive(answer).type == WATCH_EVENT)
				printf("event %s\n", answer);
	} else {
		return 1;
	}
	return 0;
}
