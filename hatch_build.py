"""Puts the configs into the wheel, as jaxgen/configs; an editable installation finds them beside the package."""

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Configs(BuildHookInterface):
  def initialize(self, version, build_data):
    if version != "editable":
      build_data["force_include"]["configs"] = "jaxgen/configs"
