"""Servers of language models, asked over the network: is what they say determined by what they are asked?"""
