"""The build checks by name: what each is about, and where docker explains it.

Names, texts and addresses are BuildKit's (frontend/dockerfile/linter), so that a `# check=` directive
and tools that read the JSON work here as they do there.
"""

import re
from typing import NamedTuple

_PAGES = "https://docs.docker.com/go/dockerfile/rule/"
_WORD = r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"


class Rule(NamedTuple):
    """A check; `experimental` ones run only where a Dockerfile asks for them."""

    name: str
    description: str
    has_page: bool = True
    experimental: bool = False

    @property
    def url(self) -> str:
        """The page that explains the rule; empty where there is none."""
        return f"{_PAGES}{re.sub(_WORD, '-', self.name).lower()}/" if self.has_page else ""


STAGE_NAME_CASING = Rule("StageNameCasing", "Stage names should be lowercase")
FROM_AS_CASING = Rule(
    "FromAsCasing", "The 'as' keyword should match the case of the 'from' keyword"
)
NO_EMPTY_CONTINUATION = Rule(
    "NoEmptyContinuation", "Empty continuation lines will become errors in a future release"
)
CONSISTENT_INSTRUCTION_CASING = Rule(
    "ConsistentInstructionCasing",
    "All commands within the Dockerfile should use the same casing (either upper or lower)",
)
DUPLICATE_STAGE_NAME = Rule("DuplicateStageName", "Stage names should be unique")
RESERVED_STAGE_NAME = Rule("ReservedStageName", "Reserved words should not be used as stage names")
JSON_ARGS_RECOMMENDED = Rule(
    "JSONArgsRecommended",
    "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS"
    " signals",
)
MAINTAINER_DEPRECATED = Rule(
    "MaintainerDeprecated",
    "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
)
UNDEFINED_ARG_IN_FROM = Rule("UndefinedArgInFrom", "FROM command must use declared ARGs")
WORKDIR_RELATIVE_PATH = Rule(
    "WorkdirRelativePath",
    "Relative workdir without an absolute workdir declared within the build can have unexpected"
    " results if the base image changes",
)
UNDEFINED_VAR = Rule("UndefinedVar", "Variables should be defined before their use")
MULTIPLE_INSTRUCTIONS_DISALLOWED = Rule(
    "MultipleInstructionsDisallowed",
    "Multiple instructions of the same type should not be used in the same stage",
)
LEGACY_KEY_VALUE_FORMAT = Rule(
    "LegacyKeyValueFormat", "Legacy key/value format with whitespace separator should not be used"
)
INVALID_BASE_IMAGE_PLATFORM = Rule(
    "InvalidBaseImagePlatform",
    "Base image platform does not match expected target platform",
    has_page=False,
)
REDUNDANT_TARGET_PLATFORM = Rule(
    "RedundantTargetPlatform",
    "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default"
    " behavior",
)
SECRETS_USED_IN_ARG_OR_ENV = Rule(
    "SecretsUsedInArgOrEnv", "Sensitive data should not be used in the ARG or ENV commands"
)
INVALID_DEFAULT_ARG_IN_FROM = Rule(
    "InvalidDefaultArgInFrom",
    "Default value for global ARG results in an empty or invalid base image name",
)
FROM_PLATFORM_FLAG_CONST_DISALLOWED = Rule(
    "FromPlatformFlagConstDisallowed", "FROM --platform flag should not use a constant value"
)
COPY_IGNORED_FILE = Rule(
    "CopyIgnoredFile", "Attempting to Copy file that is excluded by .dockerignore"
)
INVALID_DEFINITION_DESCRIPTION = Rule(
    "InvalidDefinitionDescription",
    "Comment for build stage or argument should follow the format:"
    " `# <arg/stage name> <description>`. If this is not intended to be a description comment,"
    " add an empty line or comment between the instruction and the comment.",
    experimental=True,
)
EXPOSE_PROTO_CASING = Rule(
    "ExposeProtoCasing", "Protocol in EXPOSE instruction should be lowercase"
)
EXPOSE_INVALID_FORMAT = Rule(
    "ExposeInvalidFormat",
    "IP address and host-port mapping should not be used in EXPOSE instruction. This will become"
    " an error in a future release",
)

RULES = tuple(value for value in list(globals().values()) if isinstance(value, Rule))
