
#compdef medgen

_medgen_completion() {
  eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _MEDGEN_COMPLETE=complete_zsh medgen)
}

compdef _medgen_completion medgen
