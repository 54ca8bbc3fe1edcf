// Python in this process. All functions are to be called from one thread, which is the one that
// called python_start.

#include <stddef.h>

// Starts the interpreter of a program (that of a virtual environment, for its packages) and runs the
// glue. Gives NULL, or what went wrong, to be freed.
char *python_start(const char *program, const char *glue);

// Calls the glue. Gives 1, and an answer of so many bytes; or 0, and an error; either to be freed.
int python_call(const char *function, const char *text, size_t length, long long handle,
                long long number, char **answer, size_t *answer_length);
