// Eight processes keep different patterns in all sixteen ymm registers, yield to each other, and look again.
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PROCESSES = 8, ROUNDS = 300, REGISTERS = 16, BYTES = 32 };

// Loads the registers, makes one system call, stores them: no compiler's code in between.
static void through_yield(const uint8_t *in, uint8_t *out)
{
	long ret;
	asm volatile(
		"vmovdqu (%1), %%ymm0\n vmovdqu 32(%1), %%ymm1\n vmovdqu 64(%1), %%ymm2\n vmovdqu 96(%1), %%ymm3\n"
		"vmovdqu 128(%1), %%ymm4\n vmovdqu 160(%1), %%ymm5\n vmovdqu 192(%1), %%ymm6\n vmovdqu 224(%1), %%ymm7\n"
		"vmovdqu 256(%1), %%ymm8\n vmovdqu 288(%1), %%ymm9\n vmovdqu 320(%1), %%ymm10\n vmovdqu 352(%1), %%ymm11\n"
		"vmovdqu 384(%1), %%ymm12\n vmovdqu 416(%1), %%ymm13\n vmovdqu 448(%1), %%ymm14\n vmovdqu 480(%1), %%ymm15\n"
		"syscall\n"
		"vmovdqu %%ymm0, (%2)\n vmovdqu %%ymm1, 32(%2)\n vmovdqu %%ymm2, 64(%2)\n vmovdqu %%ymm3, 96(%2)\n"
		"vmovdqu %%ymm4, 128(%2)\n vmovdqu %%ymm5, 160(%2)\n vmovdqu %%ymm6, 192(%2)\n vmovdqu %%ymm7, 224(%2)\n"
		"vmovdqu %%ymm8, 256(%2)\n vmovdqu %%ymm9, 288(%2)\n vmovdqu %%ymm10, 320(%2)\n vmovdqu %%ymm11, 352(%2)\n"
		"vmovdqu %%ymm12, 384(%2)\n vmovdqu %%ymm13, 416(%2)\n vmovdqu %%ymm14, 448(%2)\n vmovdqu %%ymm15, 480(%2)\n"
		: "=a"(ret)
		: "r"(in), "r"(out), "0"(24L /* sched_yield */)
		: "rcx", "r11", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
		  "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

static int process(unsigned number)
{
	static uint8_t in[REGISTERS * BYTES], out[REGISTERS * BYTES];
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < sizeof in; i++)
			in[i] = (uint8_t)(number * 131 + round * 17 + i * 7);
		memset(out, 0, sizeof out);
		through_yield(in, out);
		if (memcmp(in, out, sizeof in))
			return 1;
	}
	return 0;
}

int main(void)
{
	int wrong = 0;
	for (unsigned number = 0; number < PROCESSES; number++)
		if (fork() == 0)
			_exit(process(number));
	for (unsigned number = 0; number < PROCESSES; number++) {
		int status = 1;
		wait(&status);
		wrong += status != 0;
	}
	printf("%d processes, %d wrong\n", PROCESSES, wrong);
	return wrong != 0;
}
