# nbgrader and formgrader grade this course by what stands here. It works copied into any course directory
# that holds solutions/ and lectures/ and has the package installed there (with the `instructor` extra).
c = get_config()  # noqa: F821 (nbgrader provides it)

# `--student 'smith [audit]'` names one student, and so does formgrader's button.
from autograder import named  # noqa: E402

named.install()

c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "lectures"
# nbgrader hands every other file of an assignment's folder to students: texts and caches stay out.
c.CourseDirectory.ignore = [".ipynb_checkpoints", "*.pyc", "__pycache__", "feedback", "*.py"]

# The course comes with its releases made: `nbgrader generate_assignment` enters them in the gradebook.
c.GenerateAssignment.exporter_class = "autograder.plugins.ReleaseExporter"

# A file that is no notebook is a row with its reason, not the end of the class.
c.Autograde.exporter_class = "autograder.plugins.SubmissionExporter"
# Everybody has a page, also who is called `smith [audit]`.
c.GenerateFeedback.exporter_class = "autograder.plugins.FeedbackExporter"
c.Autograde.sanitize_preprocessors = [
    "autograder.plugins.RestoreRelease",  # roles, points, check cells: from the release, never the submission
    "nbgrader.preprocessors.ClearOutput",
    "nbgrader.preprocessors.DeduplicateIds",
    "nbgrader.preprocessors.OverwriteKernelspec",
    "nbgrader.preprocessors.OverwriteCells",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.OverwriteCells.add_missing_cells = True
c.Autograde.autograde_preprocessors = [
    "autograder.plugins.Judge",  # in place of Execute: a check cell's outputs are the oracle's verdict
    "nbgrader.preprocessors.LimitOutput",
    "nbgrader.preprocessors.SaveAutoGrades",
    "autograder.plugins.Flag",  # shortcuts and missing verdicts are for a person to look at
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.Execute.kernel_name = "python3"

# Students' code runs behind walls, and where none can be had (`autograder sandbox` says why) grading refuses. This
# line gives that protection up: their code then runs as you, with your files and the gradebook within its reach.
# c.Judge.unsafe_no_sandbox = True
