#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "python.h"

static PyObject *call; // the glue's function

static char *copy(const char *text, size_t length) {
	char *made = malloc(length + 1);
	if (made != NULL) {
		memcpy(made, text, length);
		made[length] = 0;
	}
	return made;
}

// A traceback goes to stderr; the host gets what it was about.
static char *failed(const char *what) {
	if (PyErr_Occurred())
		PyErr_Print();
	return copy(what, strlen(what));
}

static char *run_glue(const char *glue) {
	PyObject *names = PyDict_New(); // never freed: its functions look their globals up in it
	if (names == NULL)
		return failed("out of memory");
	PyDict_SetItemString(names, "__builtins__", PyEval_GetBuiltins());
	PyObject *done = PyRun_String(glue, Py_file_input, names, names);
	if (done == NULL)
		return failed("the glue does not run; see the traceback on stderr");
	Py_DECREF(done);
	call = PyDict_GetItemString(names, "call");
	return call == NULL ? failed("the glue has no function call") : NULL;
}

char *python_start(const char *program, const char *glue) {
	PyConfig config;
	PyConfig_InitPythonConfig(&config);
	config.install_signal_handlers = 0; // signals are the host's
	config.parse_argv = 0;
	PyStatus status = PyConfig_SetBytesString(&config, &config.program_name, program);
	if (!PyStatus_Exception(status))
		status = Py_InitializeFromConfig(&config);
	PyConfig_Clear(&config);
	if (PyStatus_Exception(status)) { // there may be no Python that could be asked for its exception
		const char *what = status.err_msg != NULL ? status.err_msg : "Python does not start";
		return copy(what, strlen(what));
	}
	char *error = run_glue(glue);
	PyEval_SaveThread(); // threads of the libraries may have the lock between two calls
	return error;
}

static int answered(PyObject *pair, char **answer, size_t *length) {
	PyObject *text, *error;
	if (pair == NULL || !PyArg_ParseTuple(pair, "OO", &text, &error)) {
		*answer = failed("the call failed; see the traceback on stderr");
		return 0;
	}
	Py_ssize_t size = 0;
	const char *bytes = PyUnicode_AsUTF8AndSize(error == Py_None ? text : error, &size);
	if (bytes == NULL) {
		*answer = failed("the answer is no text");
		return 0;
	}
	*answer = copy(bytes, (size_t)size);
	*length = (size_t)size;
	return error == Py_None;
}

int python_call(const char *function, const char *text, size_t length, long long handle,
                long long number, char **answer, size_t *answer_length) {
	PyGILState_STATE held = PyGILState_Ensure();
	PyObject *pair = NULL;
	PyObject *unicode = PyUnicode_DecodeUTF8(text, (Py_ssize_t)length, "replace");
	if (unicode != NULL)
		pair = PyObject_CallFunction(call, "sOLL", function, unicode, handle, number);
	Py_XDECREF(unicode);
	int good = answered(pair, answer, answer_length);
	Py_XDECREF(pair);
	PyGILState_Release(held);
	return good;
}
